"""`python -m bench kernels`: each kernel alone."""

from __future__ import annotations

from bench import attention, block, elementwise, product
from bench.rows import Bar, Benchmark


def is_attention(group, sizes):
    """Whether a row is one of this group with (B, H, T) among the sizes."""
    return lambda row: (
        row.group == group and (row.sizes["B"], row.sizes["H"], row.sizes["T"]) in sizes
    )


def is_compared_product(row):
    """Whether a row counts for the ratios; 192 rows are there for the share of the peak alone."""
    return (
        row.group == product.GROUP
        and (row.sizes["n"], row.sizes["k"]) in product.WEIGHTS
        and row.sizes["m"] != 192
    )


BENCHMARK = Benchmark(
    "kernels",
    rows=(*product.rows(), *attention.rows(), *elementwise.rows(), *block.rows()),
    bars=(
        Bar(
            "product, m >= 192: share of the FMA peak",
            "%",
            0.85,
            lambda row: row.group == product.GROUP and row.sizes["m"] >= 192,
            lambda result: result.share,
        ),
        Bar(
            "product: the better of NumPy and PyTorch",
            "x",
            1.4,
            is_compared_product,
            lambda result: result.ratio_to_best("numpy", "torch"),
            mean=True,
        ),
        Bar(
            "product: the better of NumPy and PyTorch, every shape",
            "x",
            1.0,
            is_compared_product,
            lambda result: result.ratio_to_best("numpy", "torch"),
        ),
        Bar(
            "product, m = 1, weights of 512 MB: share of the read bandwidth",
            "%",
            0.85,
            lambda row: row.group == product.STREAMED,
            lambda result: result.share,
        ),
        Bar(
            "attention, short: PyTorch",
            "x",
            1.8,
            is_attention(attention.FULL, attention.SHORT),
            lambda result: result.ratio_to_best("torch"),
        ),
        Bar(
            "attention, long: PyTorch",
            "x",
            1.35,
            is_attention(attention.FULL, attention.LONG),
            lambda result: result.ratio_to_best("torch"),
        ),
        Bar(
            "attention, causal, T >= 512: PyTorch",
            "x",
            1.6,
            is_attention(attention.CAUSAL, attention.LONG),
            lambda result: result.ratio_to_best("torch"),
        ),
    ),
)
