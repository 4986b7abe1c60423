"""The other libraries: which are installed, set to the same number of threads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

DISTRIBUTIONS = (
    "numpy",
    "scipy",
    "torch",
    "onnxruntime",
    "onnx",
    "ctranslate2",
    "transformers",
    "openvino",
)


def module(name: str) -> Any:
    """A module, or None where its package is not installed; typed as anything for its users."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


class Peers:
    """Modules, None where not installed. NumPy and SciPy take their threads from the environment.

    onnxruntime needs onnx beside it, to make its graphs with. CTranslate2, OpenVINO and
    transformers are loaded when first asked for: most benchmarks do without them and their threads.
    """

    torch: ModuleType | None

    def __init__(self, threads: int):
        self.threads = threads
        self.blas = module("scipy.linalg.blas")
        self.torch = module("torch")
        self.onnxruntime = module("onnx") and module("onnxruntime")
        if self.torch:
            self.torch.set_num_threads(threads)
        if self.onnxruntime:
            self.onnxruntime.set_default_logger_severity(3)  # errors only

    @cached_property
    def ctranslate2(self) -> Any:
        return module("ctranslate2")

    @cached_property
    def openvino(self) -> Any:
        return module("openvino")

    @cached_property
    def transformers(self) -> Any:
        return self.torch and module("transformers")

    @staticmethod
    def versions() -> dict[str, str]:
        """The installed versions by distribution."""
        found = {}
        for name in DISTRIBUTIONS:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found

    def inference_mode(self) -> contextlib.AbstractContextManager:
        """Torch's, entered once around everything: entering it in every call would cost torch."""
        return self.torch.inference_mode() if self.torch else contextlib.nullcontext()

    def onnx_call(
        self, model, inputs: dict[str, np.ndarray], output_shape: tuple[int, ...]
    ) -> Callable[[], np.ndarray]:
        """Run an ONNX model with one output, on memory bound once: its fastest way to be called."""
        ort = self.onnxruntime
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        out = np.empty(output_shape, np.float32)
        (output,) = session.get_outputs()
        binding.bind_output(output.name, "cpu", 0, np.float32, out.shape, out.ctypes.data)

        def call(_alive=inputs):  # the binding knows only the addresses of the arrays
            session.run_with_iobinding(binding)
            return out

        return call
