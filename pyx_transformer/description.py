"""Layers as data: what a stack is made of, in one place that everything that runs it reads.

    StackConfig -> LayerConfig -> SubLayerConfig -> AttentionConfig or FeedForwardConfig, NormConfig

A sub-layer is a block with a residual around it and norms where they are given:

    out = norm_sum(x + norm_after(block(norm_before(x))))

The paper's layers have a norm_sum, pre-norm ones a norm_before, Gemma's a norm_before and a
norm_after. Sub-layers follow one another or, side by side (GPT-NeoX), all read the layer's input.

What contradicts itself is refused here: TypeError or ValueError with the field, what came and what
was expected. Values are those that the fields give, defaults filled in where they depend on others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pyx_transformer import _checks, _runtime
from pyx_transformer._fields import check_fields, set_field
from pyx_transformer._reprs import called, counted, described, told

MOST_LAYERS = 10_000
NORMS = ("layer_norm", "rms_norm")
PAIRINGS = ("halves", "interleaved")
SCALINGS = (None, "linear", "llama3")


@described
@dataclass(frozen=True, repr=False)
class NormConfig:
    """A norm over the last axis: `ops.layer_norm` or `ops.rms_norm`, with its own weight and bias.

    kind: "layer_norm" or "rms_norm". eps: what is added to the variance, or the mean square, at
    least 0. weight, bias: whether there is one; bias None, unless given, means that layer norm has
    one and RMS norm, which can have none, not.
    """

    kind: str = "layer_norm"
    eps: float = 1e-5
    weight: bool = True
    bias: bool | None = None

    def __post_init__(self):
        this = "NormConfig"
        _checks.as_choice(this, "kind", self.kind, NORMS)
        check_fields(this, self)
        is_layer_norm = self.kind == "layer_norm"
        if self.bias is None:
            set_field(self, "bias", is_layer_norm)
        if self.bias and not is_layer_norm:
            raise ValueError(f"{this}: bias is True, expected False because kind is rms_norm")


@described
@dataclass(frozen=True, repr=False)
class RotaryConfig:
    """Rotary positions (Su et al. 2021): queries and keys turn by position * frequency.

    base: frequency i is base^(-2 i / size). size: how many values of a head turn, the first ones;
    None means all. pairing: value i turns with i + size / 2 ("halves") or 2 i with 2 i + 1
    ("interleaved"). scaling: "linear" divides all frequencies by `factor` (Chen et al. 2023);
    "llama3" the low ones, as Llama 3.1 does: those with less than low_frequency_factor turns in
    original_length positions wholly, those with more than high_frequency_factor not at all.
    """

    base: float = 10000.0
    size: int | None = None
    pairing: str = "halves"
    scaling: str | None = None
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        this = "RotaryConfig"
        check_fields(this, self)
        for name in ("base", "factor", "low_frequency_factor"):
            _checks.as_number(this, name, getattr(self, name), above=0)
        _checks.as_choice(this, "pairing", self.pairing, PAIRINGS)
        _checks.as_choice(this, "scaling", self.scaling, SCALINGS)
        _check_even(this, "size", self.size)
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"{this}: high_frequency_factor is {self.high_frequency_factor}, expected more "
                f"than low_frequency_factor = {self.low_frequency_factor}"
            )


@described
@dataclass(frozen=True, repr=False)
class DistanceBiasConfig:
    """A learned bias of the scores by head and bucket of distance (Raffel et al. 2020, T5).

    num_buckets: of a key at distance d after its query, with `bidirectional` half of the buckets
    are for d > 0, else all keys after it share bucket 0. Half of the rest hold one distance each,
    the others grow by a factor up to max_distance, and the last holds all beyond. shared: one table
    for all layers of the stack.
    """

    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    shared: bool = True

    def __post_init__(self):
        this = "DistanceBiasConfig"
        check_fields(this, self)
        least = 4 if self.bidirectional else 2
        if self.num_buckets % least or self.num_buckets > 1 << 20:
            raise ValueError(
                f"{this}: num_buckets is {self.num_buckets}, expected a multiple of {least}, at "
                f"most {1 << 20}, because bidirectional is {self.bidirectional}"
            )
        exact = self.num_buckets // least
        if not exact < self.max_distance <= 1 << 20:
            raise ValueError(
                f"{this}: max_distance is {self.max_distance}, expected more than the {exact} "
                f"buckets of one distance, and at most {1 << 20}"
            )


@described
@dataclass(frozen=True, repr=False)
class AttentionConfig:
    """Multi-head attention between its projections (Vaswani et al. 2017, 3.2).

    num_kv_heads: heads of keys and values, num_heads unless given, of which it is a divisor
    (Ainslie et al. 2023). head_size: d_model / num_heads unless given. is_cross: keys and values
    are the memory's, an encoder's output. is_causal, window, softcap, scale: as in
    `ops.scaled_dot_product_attention`. bias: whether the projections of queries, keys and values
    have one; output_bias: whether that of the output does. head_norm: of each head's queries and
    keys, before they turn by `rotary`. distance_bias: added to the capped scores.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_size: int | None = None
    is_cross: bool = False
    is_causal: bool = False
    bias: bool = True
    output_bias: bool = True
    scale: float | None = None
    softcap: float | None = None
    window: tuple[int | None, int | None] | None = None
    rotary: RotaryConfig | None = None
    distance_bias: DistanceBiasConfig | None = None
    head_norm: NormConfig | None = None

    def __post_init__(self):
        this = "AttentionConfig"
        check_fields(this, self, {"scale": -_checks.FLOAT32_MAX, "softcap": _checks.FLOAT32_TINY})
        kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        set_field(self, "num_kv_heads", kv_heads)
        if self.num_heads % kv_heads:
            raise ValueError(
                f"{this}: num_kv_heads is {kv_heads}, expected a divisor of num_heads = "
                f"{self.num_heads}"
            )
        left, right = _checks.as_window(this, "window", self.window)
        window = tuple(None if side < 0 else side for side in (left, right))
        set_field(self, "window", None if window == (None, None) else window)
        if self.is_cross:
            for name in ("window", "is_causal", "rotary", "distance_bias"):
                if getattr(self, name):
                    raise ValueError(
                        f"{this}: {name} is {getattr(self, name)}, expected none because is_cross "
                        "is True: a memory's keys have places of their own"
                    )


@described
@dataclass(frozen=True, repr=False)
class FeedForwardConfig:
    """W2 f(W1 x), or gated W2 (f(W1 x) * (W3 x)) (Vaswani et al. 2017, 3.3; Shazeer 2020).

    d_ff: rows of W1. activation f as in `ops.linear`. bias: whether each projection has one.
    """

    d_ff: int
    activation: str | None = "relu"
    gated: bool = False
    bias: bool = True

    def __post_init__(self):
        this = "FeedForwardConfig"
        check_fields(this, self)
        _checks.as_choice(this, "activation", self.activation, _runtime.kernels.ACTIVATIONS)


@described
@dataclass(frozen=True, repr=False)
class SubLayerConfig:
    """A block with its norms and its residual: norm_sum(x + norm_after(block(norm_before(x)))).

    block: attention or feed-forward. norm_before, norm_after, norm_sum: None where there is none.
    """

    block: AttentionConfig | FeedForwardConfig
    norm_before: NormConfig | None = None
    norm_after: NormConfig | None = None
    norm_sum: NormConfig | None = None

    def __post_init__(self):
        check_fields("SubLayerConfig", self)


@described
@dataclass(frozen=True, repr=False)
class LayerConfig:
    """sub_layers, one after the other or, with side_by_side, all on the layer's input."""

    sub_layers: tuple[SubLayerConfig, ...]
    side_by_side: bool = False

    def __post_init__(self):
        this = "LayerConfig"
        check_fields(this, self)
        most = _runtime.kernels.MOST_SUB_LAYERS
        if not 1 <= len(self.sub_layers) <= most:
            raise ValueError(
                f"{this}: sub_layers has {len(self.sub_layers)} entries, expected 1 to {most}"
            )
        if self.side_by_side and len(self.sub_layers) > 2:
            raise ValueError(
                f"{this}: sub_layers has {len(self.sub_layers)} entries, expected at most 2 "
                "because side_by_side is True"
            )
        if self.side_by_side and any(one.norm_sum for one in self.sub_layers):
            raise ValueError(
                f"{this}: side_by_side is True, expected False because a sub-layer has a norm_sum"
            )
        kinds = [
            (type(one.block), isinstance(one.block, AttentionConfig) and one.block.is_cross)
            for one in self.sub_layers
        ]
        if len(set(kinds)) < len(kinds):
            raise ValueError(
                f"{this}: sub_layers holds two blocks of one kind, expected at most one each of "
                "self-attention, cross-attention and feed-forward"
            )

    @property
    def attentions(self) -> list[AttentionConfig]:
        """The attention blocks, in order."""
        blocks = [one.block for one in self.sub_layers]
        return [block for block in blocks if isinstance(block, AttentionConfig)]

    @property
    def has_memory(self) -> bool:
        """Whether it reads a memory, an encoder's output."""
        return any(attention.is_cross for attention in self.attentions)


@described
@dataclass(frozen=True, repr=False)
class StackConfig:
    """num_layers layers on rows of d_model: those of `layers` in turn, again and again.

    final_norm: after the last one. share_weights: each of `layers` has one set of weights, however
    often it comes (Lan et al. 2020, ALBERT); else every layer of the stack has its own.
    """

    d_model: int
    num_layers: int
    layers: tuple[LayerConfig, ...]
    final_norm: NormConfig | None = None
    share_weights: bool = False

    def __post_init__(self):
        this = "StackConfig"
        _checks.as_integer(this, "num_layers", self.num_layers, minimum=0, maximum=MOST_LAYERS)
        check_fields(this, self, {"num_layers": 0})
        if self.num_layers and not self.layers:
            raise ValueError(f"{this}: layers is empty, expected at least one")
        for attention in self.attentions:
            size = attention.head_size
            if size is None:
                _checks.as_num_heads(this, attention.num_heads, self.d_model)
                size = self.d_model // attention.num_heads
            inner = attention.num_heads * size
            _checks.as_size(this, "num_heads * head_size", inner)
            if attention.rotary is not None:
                turning = attention.rotary.size
                _check_even(this, "head_size", size if turning is None else turning)
                if turning is not None and turning > size:
                    raise ValueError(
                        f"{this}: rotary.size is {turning}, expected at most head_size = {size}"
                    )
        if len({layer.has_memory for layer in self.layers}) > 1:
            raise ValueError(
                f"{this}: layers with cross-attention and without were given, expected all of one "
                "kind"
            )
        numbers = {attention.num_heads for attention in self.attentions}
        if len(numbers) > 1:
            raise ValueError(
                f"{this}: layers have num_heads {sorted(numbers)}, expected one number for all"
            )
        shared = {a.distance_bias for a in self.attentions if a.distance_bias is not None}
        if len(shared) > 1 and any(bias.shared for bias in shared):
            raise ValueError(
                f"{this}: layers have {len(shared)} different distance_bias, expected one because "
                "it is shared"
            )

    @property
    def attentions(self) -> list[AttentionConfig]:
        """The attention blocks of `layers`, in order."""
        return [attention for layer in self.layers for attention in layer.attentions]

    @property
    def has_memory(self) -> bool:
        """Whether its layers read a memory, an encoder's output."""
        return any(layer.has_memory for layer in self.layers)

    def layer(self, number: int) -> LayerConfig:
        """The description of layer `number`, from 0."""
        return self.layers[number % len(self.layers)]

    def in_words(self) -> list[str]:
        """How many layers, how wide, with how many heads."""
        heads = {counted(attention.num_heads, "head") for attention in self.attentions}
        return [counted(self.num_layers, "layer"), f"d_model={self.d_model}", *heads]

    def __repr__(self) -> str:
        further = ("final_norm", "share_weights")
        named = {name: value for name, value in told(self).items() if name in further}
        return called(self, self.in_words(), named)


def plain_stack(
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    *,
    activation: str | None = "relu",
    norm_first: bool = False,
    final_norm: bool = False,
    layer_norm_eps: float = 1e-5,
    is_causal: bool = False,
    has_memory: bool = False,
    who: str = "plain_stack",
) -> StackConfig:
    """A stack of the paper's layers: self-attention, cross-attention with has_memory, feed-forward.

    norm_first puts each layer norm before its sub-layer (Xiong et al. 2020), else it is of the sum;
    final_norm adds one after the last layer. Raises TypeError or ValueError, as `who`, naming the
    argument.
    """
    num_layers = _checks.as_integer(who, "num_layers", num_layers, minimum=0, maximum=MOST_LAYERS)
    d_model = _checks.as_size(who, "d_model", d_model)
    num_heads = _checks.as_num_heads(who, num_heads, d_model)
    d_ff = _checks.as_size(who, "d_ff", d_ff)
    _checks.as_choice(who, "activation", activation, _runtime.kernels.ACTIVATIONS)
    norm_first = _checks.as_flag(who, "norm_first", norm_first)
    final_norm = _checks.as_flag(who, "final_norm", final_norm)
    eps = _checks.as_number(who, "layer_norm_eps", layer_norm_eps, minimum=0)
    norm = NormConfig(eps=eps)
    blocks: list[AttentionConfig | FeedForwardConfig] = [
        AttentionConfig(num_heads, is_causal=is_causal)
    ]
    if has_memory:
        blocks.append(AttentionConfig(num_heads, is_cross=True))
    blocks.append(FeedForwardConfig(d_ff, activation))
    place = "norm_before" if norm_first else "norm_sum"
    layer = LayerConfig(tuple(SubLayerConfig(block, **{place: norm}) for block in blocks))
    return StackConfig(d_model, num_layers, (layer,), norm if final_norm else None)


def plain_sizes(
    stack: StackConfig, *, is_causal: bool = False, has_memory: bool = False
) -> dict[str, Any] | None:
    """What to tell `plain_stack`, besides is_causal and has_memory, to get this stack; None where
    it is not the paper's."""
    blocks = [one for layer in stack.layers[:1] for one in layer.sub_layers]
    if not blocks or not isinstance(blocks[-1].block, FeedForwardConfig):
        return None
    attention, norm = blocks[0].block, blocks[0].norm_before or blocks[0].norm_sum
    if not isinstance(attention, AttentionConfig) or norm is None:
        return None
    sizes: dict[str, Any] = {
        "num_layers": stack.num_layers,
        "d_model": stack.d_model,
        "num_heads": attention.num_heads,
        "d_ff": blocks[-1].block.d_ff,
        "activation": blocks[-1].block.activation,
        "norm_first": blocks[0].norm_before is not None,
        "final_norm": stack.final_norm is not None,
        "layer_norm_eps": norm.eps,
    }
    plain = plain_stack(**sizes, is_causal=is_causal, has_memory=has_memory)
    return sizes if plain == stack else None


def without_memory(stack: StackConfig) -> StackConfig:
    """The stack without its cross-attentions."""
    layers = []
    for layer in stack.layers:
        kept = tuple(
            one
            for one in layer.sub_layers
            if not (isinstance(one.block, AttentionConfig) and one.block.is_cross)
        )
        layers.append(replace(layer, sub_layers=kept))
    return replace(stack, layers=tuple(layers))


def _check_even(this, name, size):
    if size is not None and size % 2:
        raise ValueError(
            f"{this}: {name} is {size}, expected an even number because rotary positions turn pairs"
        )
