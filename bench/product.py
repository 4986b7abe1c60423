"""Rows of the matrix product with packed weights, x (m, k) W^T -> (m, n), without bias.

Every contestant writes into a result that is there already.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import LinearCase, arrays

from bench.rows import Row
from bench.timing import Contestant
from pyx_transformer import _runtime

GROUP, STREAMED = "product", "product, streamed"
ROWS = (1, 4, 16, 32, 64, 128, 192, 512, 1024)  # m
WEIGHTS = ((512, 512), (2048, 512), (512, 2048), (768, 768), (3072, 768))  # (n, k)
QUICK = {(1, 512, 512), (16, 2048, 512), (192, 768, 768)}
# Weights of 512 MB, which no cache holds: the speed of main memory is the limit.
LARGEST = (1, 16384, 8192)


def rows():
    sizes = [(m, n, k) for n, k in WEIGHTS for m in ROWS]
    sizes += [(192, 3072, 3072), (1024, 3072, 3072)]
    for m, n, k in sizes:
        yield Row(
            GROUP,
            {"m": m, "n": n, "k": k},
            partial(contestants, LinearCase(m=m, n=n, k=k, bias=False)),
            flop=2 * m * n * k,
            quick=(m, n, k) in QUICK,
        )
    m, n, k = LARGEST
    yield Row(
        STREAMED,
        {"m": m, "n": n, "k": k},
        partial(contestants, LinearCase(m=m, n=n, k=k, bias=False)),
        bytes=4 * (m * k + n * k + m * n),
    )


def contestants(case, peers):
    inputs = arrays(case)
    x, weight = inputs["x"], inputs["weight"]
    kernels = _runtime.kernels
    packed = kernels.PackedLinear(weight, None)
    out = np.empty((case.m, case.n), np.float32)

    def ours():
        kernels.linear(out, x, packed, None, None, 0, peers.threads)
        return out

    yield Contestant("ours", ours)
    numpy_out = np.empty_like(out)
    yield Contestant("numpy", lambda: np.matmul(x, weight.T, out=numpy_out))
    if peers.blas:
        # BLAS counts by columns: out^T = W x^T, for which nothing has to be copied.
        blas_out = np.empty_like(out)
        multiply = partial(
            peers.blas.sgemm, 1.0, weight.T, x.T, 0.0, blas_out.T, trans_a=1, overwrite_c=1
        )
        yield Contestant("scipy", lambda: multiply().T)
    if peers.torch:
        torch = peers.torch
        torch_out = torch.empty(case.m, case.n)
        torch_x, torch_weight = torch.from_numpy(x), torch.from_numpy(weight).T
        yield Contestant("torch", lambda: torch.mm(torch_x, torch_weight, out=torch_out))
    if peers.onnxruntime:
        from bench import graphs

        model = graphs.one_node("MatMul", {"x": x}, out.shape, {"weight": weight.T})
        yield Contestant("onnxruntime", peers.onnx_call(model, {"x": x}, out.shape))
