"""ONNX graphs for ONNX Runtime. Imported only where onnx is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# The first opset with Attention and RMSNormalization, and its file format.
OPSET, IR_VERSION = 23, 11
# The patterns that ONNX Runtime's optimizer fuses are those of this opset.
ENCODER_OPSET, ENCODER_IR_VERSION = 17, 8


def one_node(
    operator: str,
    inputs: Mapping[str, np.ndarray],
    output_shape: tuple[int, ...],
    constants: Mapping[str, np.ndarray] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of a single operator. Its inputs come first, then the constants, which are weights.

    All are float32; the output is "y".
    """
    constants = constants or {}
    node = helper.make_node(operator, [*inputs, *constants], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        operator,
        [_float(name, array.shape) for name, array in inputs.items()],
        [_float("y", output_shape)],
        [_tensor(name, array) for name, array in constants.items()],
    )
    return _model(graph, OPSET, IR_VERSION)


def encoder(state: Mapping[str, np.ndarray], num_heads: int, eps: float) -> onnx.ModelProto:
    """A post-norm encoder stack with ReLU: x (B, T, D) -> y (B, T, D).

    state holds the weights under PyTorch's names, of any number of layers. The graph is made of
    the operators that an export gives, a query's, key's and value's projection apart.
    """
    builder = _EncoderBuilder(state, num_heads, eps)
    num_layers = 1 + max(int(name.split(".")[1]) for name in state)
    x = "x"
    for i in range(num_layers):
        x = builder.layer(f"layers.{i}.", x)
    builder.node("Identity", x, name="y")
    graph = helper.make_graph(
        builder.nodes,
        "encoder",
        [_float("x", ("B", "T", builder.d_model))],
        [_float("y", ("B", "T", builder.d_model))],
        builder.tensors,
    )
    return _model(graph, ENCODER_OPSET, ENCODER_IR_VERSION)


def fused(model: onnx.ModelProto, num_heads: int, d_model: int) -> onnx.ModelProto:
    """The encoder after ONNX Runtime's own tool: Attention and SkipLayerNormalization nodes.

    Raises RuntimeError where the tool fuses no attention. The given model is used up.
    """
    from onnxruntime.transformers import optimizer

    optimized = optimizer.optimize_model(
        model, model_type="bert", num_heads=num_heads, hidden_size=d_model, opt_level=0
    ).model
    if not any(node.op_type == "Attention" for node in optimized.graph.node):
        raise RuntimeError("onnxruntime.transformers.optimizer fused no attention")
    return optimized


class _EncoderBuilder:
    def __init__(self, state, num_heads, eps):
        self.state = state
        self.eps = eps
        self.nodes = []
        self.tensors = []
        self.d_model = len(state["layers.0.norm1.weight"])
        head_size = self.d_model // num_heads
        self.split = self.constant("split", np.array([0, 0, num_heads, head_size]))
        self.merge = self.constant("merge", np.array([0, 0, self.d_model]))
        self.scale = self.constant("scale", np.sqrt(np.array(head_size, np.float32)))

    def constant(self, name, array):
        self.tensors.append(_tensor(name, array))
        return name

    def node(self, operator, *inputs, name, **attributes):
        """Append a node whose one output bears its name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x, weight, bias, name):
        x = self.node("MatMul", x, self.constant(f"{name}.weight", weight.T), name=f"{name}.matmul")
        return self.node("Add", self.constant(f"{name}.bias", bias), x, name=name)

    def norm(self, x, name):
        weight = self.constant(f"{name}.weight", self.state[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.state[f"{name}.bias"])
        return self.node("LayerNormalization", x, weight, bias, name=name, epsilon=self.eps)

    def head_rows(self, x, prefix, i, perm):
        """Query, key or value (i = 0, 1, 2) as (B, T, H, K), its axes permuted."""
        name = f"{prefix}self_attn.{'qkv'[i]}"
        weight = np.split(self.state[f"{prefix}self_attn.in_proj_weight"], 3)[i]
        bias = np.split(self.state[f"{prefix}self_attn.in_proj_bias"], 3)[i]
        x = self.linear(x, weight, bias, name)
        x = self.node("Reshape", x, self.split, name=f"{name}.split")
        return self.node("Transpose", x, name=f"{name}.heads", perm=perm)

    def attention(self, x, prefix):
        query = self.head_rows(x, prefix, 0, (0, 2, 1, 3))
        key = self.head_rows(x, prefix, 1, (0, 2, 3, 1))
        value = self.head_rows(x, prefix, 2, (0, 2, 1, 3))
        name = f"{prefix}self_attn."
        scores = self.node("MatMul", query, key, name=f"{name}scores")
        scores = self.node("Div", scores, self.scale, name=f"{name}scaled")
        weights = self.node("Softmax", scores, name=f"{name}weights", axis=-1)
        mixed = self.node("MatMul", weights, value, name=f"{name}mixed")
        mixed = self.node("Transpose", mixed, name=f"{name}rows", perm=(0, 2, 1, 3))
        mixed = self.node("Reshape", mixed, self.merge, name=f"{name}merged")
        return self.linear(mixed, *self.parameters(f"{name}out_proj"), f"{name}out_proj")

    def feed_forward(self, x, prefix):
        hidden = self.linear(x, *self.parameters(f"{prefix}linear1"), f"{prefix}linear1")
        hidden = self.node("Relu", hidden, name=f"{prefix}relu")
        return self.linear(hidden, *self.parameters(f"{prefix}linear2"), f"{prefix}linear2")

    def layer(self, prefix, x):
        attended = self.attention(x, prefix)
        x = self.node("Add", attended, x, name=f"{prefix}residual1")
        x = self.norm(x, f"{prefix}norm1")
        fed = self.feed_forward(x, prefix)
        x = self.node("Add", fed, x, name=f"{prefix}residual2")
        return self.norm(x, f"{prefix}norm2")

    def parameters(self, name):
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]


def _model(graph, opset, ir_version):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def _float(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _tensor(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)
