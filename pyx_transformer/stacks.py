"""Stacks of encoder and of decoder layers: see stack.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.description import plain_stack
from pyx_transformer.parameters import Rng, as_generator
from pyx_transformer.sequences import Sequences
from pyx_transformer.stack import Stack

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

    from pyx_transformer import _wanted
    from pyx_transformer._wanted import Given

    Floats = NDArray[np.float32]


class TransformerEncoder(Stack):
    """A stack of encoder layers (Vaswani et al. 2017, 3.1).

    encoder(x, lengths) takes x (B, S, d_model) to the same shape. State-dict keys are those of
    torch.nn.TransformerEncoder. `TransformerEncoder.of(config, rng)` makes what a `StackConfig`
    describes.
    """

    takes_memory = False

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        activation: str | None = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        rng: Rng = None,
    ):
        """num_layers: at least 0; d_model: the width of rows; num_heads: a divisor of it; d_ff: the
        width inside a feed-forward, whose activation is as in `ops.linear`. norm_first puts each
        norm before its sub-layer instead of after the residual (Xiong et al. 2020); final_norm adds
        one after the last layer; layer_norm_eps as in `LayerNorm`, rng as in `Linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        this = "TransformerEncoder"
        config = plain_stack(
            num_layers,
            d_model,
            num_heads,
            d_ff,
            activation=activation,
            norm_first=norm_first,
            final_norm=final_norm,
            layer_norm_eps=layer_norm_eps,
            who=this,
        )
        self._build(config, as_generator(this, rng))

    @overload
    def __call__(
        self,
        x: ArrayLike,
        lengths: Given = None,
        mask: Given = None,
        **wanted: Unpack[_wanted.Alone],
    ) -> Floats: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        lengths: Given = None,
        mask: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        lengths: Given = None,
        mask: Given = None,
        **wanted: Unpack[_wanted.WithHidden],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        lengths: Given = None,
        mask: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        lengths: Given = None,
        mask: Given = None,
        **wanted: Unpack[_wanted.Either],
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def __call__(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """x (B, S, d_model) -> (B, S, d_model) float32, zeros from lengths[b] on.

        lengths (B,) counts the real positions; the cost follows them. mask broadcasts to
        (B, H, S, S): bool, True where a query may attend, or float, added to the scores; it may end
        early as in `ops.scaled_dot_product_attention`. With return_attention, also the list of each
        layer's weights (B, H, S, S); with return_hidden_states, also the list of x, zeros in its
        padding, and of the rows after each layer, before the final norm. Raises TypeError or
        ValueError, naming the argument.
        """
        this = "TransformerEncoder"
        x = _checks.as_float32(this, "x", x, ("B", "S", self.d_model))
        batch, length, _ = x.shape
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        attention = self.new_attention(wanted, batch, length, length)
        sequences = Sequences.of(batch, length, lengths)
        rows = sequences.rows(x)
        hidden = new_hidden(this, return_hidden_states, rows)
        out = self.apply(rows, sequences, mask=mask, attention=attention, hidden=hidden)
        return given(sequences.padded(out), attention, padded_hidden(hidden, sequences))


class TransformerDecoder(Stack):
    """A stack of decoder layers (Vaswani et al. 2017, 3.1): causal, with cross-attention.

    decoder(x, memory, lengths, memory_lengths) takes x (B, T, d_model), with an encoder's output
    (B, S, d_model), to the shape of x. State-dict keys are those of torch.nn.TransformerDecoder. A
    stack without cross-attention, as `TransformerLM` has it, is made with
    `TransformerDecoder.of(config, rng)`.
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        activation: str | None = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        rng: Rng = None,
    ):
        """num_layers: at least 0; d_model: the width of rows, the memory's too; num_heads: a
        divisor of it; d_ff, activation, norm_first, final_norm, layer_norm_eps and rng: as in
        `TransformerEncoder`.

        Raises TypeError or ValueError, naming the argument.
        """
        this = "TransformerDecoder"
        config = plain_stack(
            num_layers,
            d_model,
            num_heads,
            d_ff,
            activation=activation,
            norm_first=norm_first,
            final_norm=final_norm,
            layer_norm_eps=layer_norm_eps,
            is_causal=True,
            has_memory=True,
            who=this,
        )
        self._build(config, as_generator(this, rng))

    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: Given = None,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.Alone],
    ) -> Floats: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: None = None,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: Given = None,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.WithHidden],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: None = None,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, list[Floats], list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        memory: Given = None,
        lengths: Given = None,
        memory_lengths: Given = None,
        *,
        mask: Given = None,
        memory_mask: Given = None,
        **wanted: Unpack[_wanted.Either],
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """x (B, T, d_model), memory (B, S, d_model) -> (B, T, d_model), zeros from lengths[b] on.

        lengths and memory_lengths (B,) count the real positions. mask broadcasts to (B, H, T, T)
        and comes on top of causality; memory_mask broadcasts to (B, H, T, S); both are bool or
        float as in `TransformerEncoder`. memory is None for a stack without cross-attention. With
        return_attention, also the lists of each layer's self-attention weights (B, H, T, T) and, if
        there is a memory, cross-attention weights (B, H, T, S); with return_hidden_states, also the
        list of rows as in `TransformerEncoder`. All results are float32. Raises TypeError or
        ValueError, naming the argument.
        """
        this = "TransformerDecoder"
        x = _checks.as_float32(this, "x", x, ("B", "T", self.d_model))
        batch, length, _ = x.shape
        has_memory = self.config.has_memory
        for name, value in {
            "memory": memory,
            "memory_lengths": memory_lengths,
            "memory_mask": memory_mask,
        }.items():
            if not has_memory and value is not None:
                raise ValueError(f"{this}: {name} was given, expected None without cross-attention")
        source = 0
        if has_memory:
            expected, because = (batch, "S", self.d_model), ("x", x.shape)
            memory = _checks.as_float32(this, "memory", memory, expected, because)
            because, source = ("memory", memory.shape), memory.shape[1]
            if memory_lengths is not None:
                memory_lengths = _checks.as_lengths(
                    this, "memory_lengths", memory_lengths, batch, source, because
                )
            sources = Sequences.of(batch, source, memory_lengths)
            memory_rows = sources.rows(memory)
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        if memory_mask is not None:
            shape = (batch, self.num_heads, length, source)
            memory_mask = _checks.as_mask(this, "memory_mask", memory_mask, shape)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        attention = self.new_attention(wanted, batch, length, length)
        cross_attention = self.new_attention(wanted and has_memory, batch, length, source)
        sequences = Sequences.of(batch, length, lengths)
        rows = sequences.rows(x)
        hidden = new_hidden(this, return_hidden_states, rows)
        rows = self.apply(
            rows,
            sequences,
            self.project(memory_rows, sources) if has_memory else None,
            mask=mask,
            memory_mask=memory_mask,
            attention=attention,
            cross_attention=cross_attention,
            hidden=hidden,
        )
        both = (attention, cross_attention) if wanted else None
        return given(sequences.padded(rows), both, padded_hidden(hidden, sequences))


# What a call gives besides its result.


def new_hidden(function: str, wanted: bool, rows: Floats) -> list[Floats] | None:
    """The list of hidden states that begins with these rows; None where it is not wanted."""
    return [rows] if _checks.as_flag(function, "return_hidden_states", wanted) else None


@overload
def padded_hidden(hidden: list[Floats], sequences: Sequences) -> list[Floats]: ...
@overload
def padded_hidden(hidden: None, sequences: Sequences) -> None: ...
def padded_hidden(hidden: list[Floats] | None, sequences: Sequences) -> list[Floats] | None:
    """Hidden states (N, D) as (B, length, D), each an array of its own."""
    return None if hidden is None else [sequences.padded(rows).copy() for rows in hidden]


def given(result: Floats, attention: Any, hidden: Any) -> Any:
    """The result alone, or with what else was asked for: a tuple of attention's weights counts one
    by one."""
    extra = attention if type(attention) is tuple else (attention,)
    wanted = [one for one in (*extra, hidden) if one is not None]
    return (result, *wanted) if wanted else result
