"""What type checkers know of the arguments by which a call is asked for more than its result.

A call that gives attention weights and hidden states on request has an overload for each of the
four cases, and one for flags that are not known beforehand.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

from numpy.typing import ArrayLike

Given: TypeAlias = ArrayLike | None


class _Hidden(TypedDict, total=False):
    return_hidden_states: Literal[False]


class _Attention(TypedDict, total=False):
    return_attention: Literal[False]


class Alone(_Attention, _Hidden):
    """The result alone."""


class WithAttention(_Hidden):
    """The result and attention weights."""

    return_attention: Literal[True]


class WithHidden(_Attention):
    """The result and hidden states."""

    return_hidden_states: Literal[True]


class WithBoth(TypedDict):
    """All three."""

    return_attention: Literal[True]
    return_hidden_states: Literal[True]


class Either(TypedDict, total=False):
    """Whatever is asked for."""

    return_attention: bool
    return_hidden_states: bool
