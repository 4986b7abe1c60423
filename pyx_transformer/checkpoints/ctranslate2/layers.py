"""Stacks of CTranslate2 as descriptions and a state of ours.

What a layer is made of is told by which variables there are. One that has no place here is refused:
it would change what the model does.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from pyx_transformer._keys import listed
from pyx_transformer.checkpoints.ctranslate2.container import SpecFile
from pyx_transformer.checkpoints.families.parts import shortest_cycle
from pyx_transformer.checkpoints.tensors import Renaming, Tensor
from pyx_transformer.description import (
    AttentionConfig,
    DistanceBiasConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    RotaryConfig,
    StackConfig,
    SubLayerConfig,
)

ACTIVATIONS = {0: "relu", 1: "gelu_tanh", 2: "silu", 3: "gelu", 4: "quick_gelu"}
NO_SCALING, LINEAR, LLAMA3 = -1, 0, 2  # rotary_scaling_type; 1 is Su's, with tables
# Attributes that change nothing in what is computed from ids.
INDIFFERENT = re.compile(
    r"(.*/)?(alignment_layer|alignment_heads|multi_query_attention|alibi_use_positive_positions"
    r"|scale_alibi|multiply_by_sqrt_depth|embeddings_merge|sliding_window)"
    r"|(unk|bos|eos)_token|with_(source_bos|source_eos|target_bos|relative_position)"
    r"|user_decoder_start_tokens|layernorm_embedding"
)


class Layers:
    """A file on its way to descriptions and a state of ours, which is `renaming`'s.

    eps: that of all norms, None for CTranslate2's own. Methods raise ValueError or TypeError,
    naming the variable, for what cannot be read.
    """

    def __init__(self, file: SpecFile, eps: float | None):
        self.file = file
        self.eps = eps
        self.tensors: dict[str, Tensor] = dict(file.tensors)
        self.renaming = Renaming(self.tensors)
        self._asked: set[str] = set()  # attributes

    def check_all_read(self) -> None:
        """Raise ValueError for variables that have no place."""
        left = [name for name in self.file.tensors if name not in self.renaming.used]
        for name in self.file.attributes:
            if name not in self._asked and not INDIFFERENT.fullmatch(name):
                left.append(name)
        if left:
            raise ValueError(f"no model here has what these variables stand for: {listed(left)}")

    # Variables.

    def attribute(self, name: str, default: Any) -> Any:
        """A number of that name, or the default."""
        self._asked.add(name)
        value = self.file.attributes.get(name, default)
        if isinstance(value, str):
            raise TypeError(f"{name} is a text, expected a number")
        return value

    def stack_attribute(self, stack: str, name: str, default: Any) -> Any:
        """A number of a stack: old files have one for both stacks."""
        return self.attribute(f"{stack}/{name}", self.attribute(name, default))

    def only(self, name: str, value: Any, default: Any) -> None:
        """Raise ValueError where an attribute is anything else."""
        found = self.attribute(name, default)
        if found != value:
            raise ValueError(f"{name} is {found}, expected {value}: nothing else can be read")

    def shape(self, name: str) -> tuple[int, int]:
        """The rows and columns of a matrix."""
        if name not in self.tensors:
            raise ValueError(f"{name} is missing")
        shape = self.tensors[name].shape
        if len(shape) != 2:
            raise ValueError(f"{name} has shape {shape}, expected a matrix")
        return shape[0], shape[1]

    def are_same(self, name: str, other: str) -> bool:
        """Whether two tensors are one, or hold the same numbers."""
        if self.shape(name) != self.shape(other):
            return False
        one, two = self.tensors[name], self.tensors[other]
        return one is two or np.array_equal(np.asarray(one), np.asarray(two))

    def linear(self, ours: str, their: str) -> None:
        """A linear map, whose bias may be absent."""
        self.renaming.take(f"{ours}.weight", f"{their}/weight")
        self.renaming.take(f"{ours}.bias", f"{their}/bias")

    def norm(self, ours: str, their: str, *, needed: bool = True) -> NormConfig | None:
        """A norm: the one without beta is RMS. None where it is not needed and not there."""
        gamma, beta = f"{their}/gamma", f"{their}/beta"
        is_added_to_1 = self.attribute(f"{their}/layer_norm_use_residual", 0)
        if not needed and gamma not in self.tensors:
            return None
        self.renaming.take(f"{ours}.weight", gamma)
        if beta in self.tensors:
            self.renaming.take(f"{ours}.bias", beta)
            return NormConfig(eps=1e-5 if self.eps is None else self.eps)
        if is_added_to_1:
            self.change(f"{ours}.weight", 1, np.add)
        return NormConfig("rms_norm", 1e-6 if self.eps is None else self.eps)

    def change(self, ours: str, number: float, how: np.ufunc) -> None:
        """Add a number to a tensor of our state, or multiply it, if it is there."""
        if ours in self.renaming.state:
            tensor = self.renaming.state[ours]
            self.renaming.state[ours] = tensor.changed(lambda array: how(array, np.float32(number)))

    # Stacks.

    def stack(self, name: str) -> StackConfig:
        """All layers of "encoder" or "decoder"."""
        numbers = {
            int(found[1])
            for tensor in self.tensors
            if (found := re.match(rf"{name}/layer_(0|[1-9][0-9]{{0,5}})/", tensor))
        }
        count = len(numbers)
        if not count or max(numbers) != count - 1:
            shown = listed(f"{name}/layer_{i}" for i in numbers) or "none"
            raise ValueError(f"layers of the {name} are {shown}, expected {name}/layer_0 and so on")
        self.only(f"{name}/alibi", 0, 0)
        layers = [self.layer(name, i) for i in range(count)]
        _, width = self.shape(f"{name}/layer_0/ffn/linear_0/weight")
        final = self.norm(f"{name}.norm", f"{name}/layer_norm", needed=False)
        return StackConfig(width, count, shortest_cycle(layers), final)

    def layer(self, stack: str, number: int) -> LayerConfig:
        """A layer of a stack."""
        ours, their = f"{stack}.layers.{number}", f"{stack}/layer_{number}"
        blocks: dict[str, AttentionConfig | FeedForwardConfig] = {}
        blocks["self_attention"] = self.attention(stack, number, "self_attention")
        if f"{their}/attention/linear_0/weight" in self.tensors:
            blocks["attention"] = self.attention(stack, number, "attention")
        blocks["ffn"] = self.feed_forward(stack, ours, f"{their}/ffn")
        places, side_by_side = self.norm_places(stack, their, list(blocks))
        count, sub_layers = 0, []
        for block, names in zip(blocks.values(), places, strict=True):
            norms = {}
            for place, name in names.items():
                count += 1
                norms[place] = self.norm(f"{ours}.norm{count}", f"{their}/{name}")
            sub_layers.append(SubLayerConfig(block, **norms))
        return LayerConfig(tuple(sub_layers), side_by_side)

    def norm_places(
        self, stack: str, their: str, blocks: list[str]
    ) -> tuple[list[dict[str, str]], bool]:
        """The norms of each block by their places, and whether blocks are side by side."""

        def has(name: str) -> bool:
            return f"{their}/{name}/gamma" in self.tensors

        kind = "norm_before" if self.stack_attribute(stack, "pre_norm", 1) else "norm_sum"
        if has("ffn/layer_norm") or "attention" in blocks:
            return [{kind: f"{block}/layer_norm"} for block in blocks], False
        first = "shared_layer_norm" if has("shared_layer_norm") else "input_layer_norm"
        second = "post_attention_layer_norm"
        if has("pre_feedforward_layer_norm"):
            last = {
                "norm_before": "pre_feedforward_layer_norm",
                "norm_after": "post_feedforward_layer_norm",
            }
            return [{"norm_before": first, "norm_after": second}, last], False
        return [{"norm_before": first}, {"norm_before": second if has(second) else first}], True

    def attention(self, stack: str, number: int, block: str) -> AttentionConfig:
        """An attention: of its linear maps the last is that of the output."""
        is_cross, is_decoder = block == "attention", stack == "decoder"
        their = f"{stack}/layer_{number}/{block}"
        ours = f"{stack}.layers.{number}.{'multihead_attn' if is_cross else 'self_attn'}"
        inputs = [f"{their}/linear_{i}" for i in range(1 + is_cross)]
        output = f"{their}/linear_{1 + is_cross}"
        for kind in ("weight", "bias"):
            self.renaming.take(f"{ours}.in_proj_{kind}", *(f"{name}/{kind}" for name in inputs))
        self.linear(f"{ours}.out_proj", output)
        heads = 16 if self.file.spec == "TransformerBig" else 8
        kv_heads = self.attribute(f"{their}/num_heads_kv", None)
        window = self.attribute(f"{their}/sliding_window", 0)
        if window and not is_decoder:
            raise ValueError(f"{their}/sliding_window is {window}, expected 0 in an encoder")
        return AttentionConfig(
            self.stack_attribute(stack, "num_heads", heads),
            1 if self.attribute(f"{their}/multi_query", 0) else kv_heads,
            self.attribute(f"{their}/head_dim", None),
            is_cross=is_cross,
            is_causal=is_decoder and not is_cross,
            bias=any(f"{name}/bias" in self.tensors for name in inputs),
            output_bias=f"{output}/bias" in self.tensors,
            scale=self.attribute(f"{their}/queries_scale", None),
            window=(window - 1, None) if window and not is_cross else None,
            rotary=self.rotary(their),
            distance_bias=None if is_cross else self.distance_bias(stack, number),
            head_norm=self.head_norm(ours, their),
        )

    def rotary(self, their: str) -> RotaryConfig | None:
        """How queries and keys turn, None where they do not."""

        def value(name: str, default: Any) -> Any:
            return self.attribute(f"{their}/{name}", default)

        size, is_interleaved = value("rotary_dim", -1), value("rotary_interleave", 1)
        scaling, factor = (
            value("rotary_scaling_type", NO_SCALING),
            value("rotary_scaling_factor", 1),
        )
        low, high = value("rotary_low_freq_factor", 1.0), value("rotary_high_freq_factor", 4.0)
        original, longest = (
            value(name, 0)
            for name in ("original_max_position_embeddings", "max_position_embeddings")
        )
        values: dict[str, Any] = {
            "base": value("rotary_base", 10000.0),
            "size": size or None,
            "pairing": "interleaved" if is_interleaved else "halves",
        }
        if size < 0:
            return None
        if scaling not in (NO_SCALING, LINEAR, LLAMA3):
            raise ValueError(
                f"{their}/rotary_scaling_type is {scaling}, expected {LINEAR} or {LLAMA3}"
            )
        if original and longest and scaling != LLAMA3:
            raise ValueError(f"{their}/max_position_embeddings is {longest}, expected 0")
        if scaling == LINEAR:
            values |= {"scaling": "linear", "factor": factor}
        elif scaling == LLAMA3 and factor != 1:  # the converters leave it at 1, which is none
            values |= {"scaling": "llama3", "factor": factor, "original_length": original}
            values |= {"low_frequency_factor": low, "high_frequency_factor": high}
        return RotaryConfig(**values)

    def distance_bias(self, stack: str, number: int) -> DistanceBiasConfig | None:
        """The bias by distance: that of all layers where they have the same, else a layer's own."""
        ending = "self_attention/relative_attention_bias"
        name, first = (f"{stack}/layer_{i}/{ending}" for i in (number, 0))
        distance = self.attribute(
            f"{stack}/layer_{number}/self_attention/relative_attention_max_distance", 0
        )
        if name not in self.tensors:
            return None
        names = [n for n in self.tensors if n.startswith(f"{stack}/") and n.endswith(ending)]
        is_shared = first in names and all(self.are_same(n, first) for n in names)
        ours = stack if is_shared else f"{stack}.layers.{number}.self_attn"
        self.renaming.take(f"{ours}.distance_bias.weight", name)
        buckets, _ = self.shape(name)
        return DistanceBiasConfig(
            buckets, distance, bidirectional=stack == "encoder", shared=is_shared
        )

    def head_norm(self, ours: str, their: str) -> NormConfig | None:
        """The norm of each head's queries and keys."""
        queries, keys = (
            self.norm(f"{ours}.{name}", f"{their}/{name}", needed=False)
            for name in ("q_norm", "k_norm")
        )
        if queries != keys:
            raise ValueError(f"{their}/q_norm and k_norm are of two kinds, expected one")
        return queries

    def feed_forward(self, stack: str, ours: str, their: str) -> FeedForwardConfig:
        """A feed-forward block, gated where it has a third linear map."""
        names = {"linear1": "linear_0", "linear2": "linear_1", "linear3": "linear_0_noact"}
        for name, other in names.items():
            self.linear(f"{ours}.{name}", f"{their}/{other}")
        activation = self.stack_attribute(stack, "activation", 0)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"{stack}/activation is {activation}, expected one of {list(ACTIVATIONS)}"
            )
        rows, _ = self.shape(f"{their}/linear_0/weight")
        return FeedForwardConfig(
            rows,
            ACTIVATIONS[activation],
            gated=f"{their}/linear_0_noact/weight" in self.tensors,
            bias=any(f"{their}/{other}/bias" in self.tensors for other in names.values()),
        )
