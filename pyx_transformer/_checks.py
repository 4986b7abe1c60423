"""The one place that raises for the kind, shape, dtype and layout of what a caller passes.

Each `as_...` function takes the name of the public function, the name of its argument and the
value, and returns the value in the one form that the code below works with. TypeError is for the
wrong kind of thing, ValueError for a shape or a range. No value is written to, and none is copied
unless it has to be converted. Every message says who, what came and what was expected:

    linear: weight has shape (512, 384), expected (out_features, 256) because x is (4, 7, 256)
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import EllipsisType

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_] | Floats
    Axes = Sequence[int | str | EllipsisType]  # as `check_shape` explains
    Because = tuple[str, Axes] | None

Choice = TypeVar("Choice", bound="str | None")

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
# Positions and window sides below this are added and subtracted without leaving 64 bits.
POSITION_LIMIT = 2**61
# Sizes above this are no model's; products of two of them still fit in 64 bits.
LARGEST_SIZE = 2**31 - 1

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)


# Arrays.


def as_float32(
    function: str, name: str, value: object, expected: Axes = (...,), because: Because = None
) -> Floats:
    """`value` as a C-contiguous, aligned float32 array; the same object if it is one already.

    Anything that np.asarray understands as real numbers is accepted: floats and integers of any
    width and byte order, booleans as 0 and 1, in any memory layout, and nested sequences of them.
    Values beyond the range of float32 become infinite. `expected` and `because` are those of
    `check_shape`.
    """
    if _is_ready(value, _FLOAT32):
        array = value
    else:
        array = _array(function, name, value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{function}: {name} has dtype {array.dtype}, expected real numbers")
        array = _converted(function, name, array, _FLOAT32)
    check_shape(function, name, array.shape, expected, because)
    return array


def as_integers(
    function: str,
    name: str,
    value: object,
    low: float,
    high: float,
    expected: Axes = (...,),
    because: Because = None,
) -> Integers:
    """`value` as a new C-contiguous, aligned int64 array with entries from `low` to `high`.

    Integers of any width are accepted, and an empty list; booleans and floats are not. What is
    checked is a copy, which nobody else can change before it is used.
    """
    array: NDArray[Any] = value if _is_ready(value, _INT64) else _array(function, name, value)
    array = array.copy()
    # NumPy reads an empty list as float64.
    is_empty_list = array.size == 0 and not isinstance(value, np.ndarray)
    if array.dtype.kind not in "iu" and not is_empty_list:
        raise TypeError(f"{function}: {name} has dtype {array.dtype}, expected integers")
    check_shape(function, name, array.shape, expected, because)
    # In the caller's own dtype, because a large uint64 is no int64.
    if array.size and not (low <= array.min() and array.max() <= high):
        index = np.argwhere((array < low) | (array > high))[0].tolist()
        entry = f"{name}{index}" if index else name
        allowed = f"{low} to {high}" if low <= high else "none at all"
        raise ValueError(
            f"{function}: {entry} is {array[tuple(index)]}, expected {allowed}{_reason(because)}"
        )
    return _converted(function, name, array, _INT64)


def as_token_ids(
    function: str, name: str, value: object, table_shape: tuple[int, ...], expected: Axes = (...,)
) -> Integers:
    """`value` as int64 token ids, each a row of a table (V, D)."""
    last = table_shape[0] - 1
    ids = as_integers(function, name, value, 0, last, because=("the table", table_shape))
    check_shape(function, name, ids.shape, expected)
    return ids


def as_lengths(
    function: str, name: str, value: object, batch: int, longest: int, because: Because
) -> Integers:
    """`value` (batch,) as int64 counts of real items, each 0 to `longest`.

    `because` names the array that sets `batch` and `longest`: ("key", key.shape).
    """
    # A copy: what was checked must still hold while a kernel runs without the GIL.
    return as_integers(function, name, value, 0, longest, (batch,), because).copy()


def as_positions(function: str, name: str, value: object, batch: int, because: Because) -> Integers:
    """One integer or (batch,) integers, negative ones allowed, as int64 (batch,)."""
    positions = as_integers(function, name, value, -POSITION_LIMIT, POSITION_LIMIT)
    if positions.ndim == 0:
        return np.full(batch, positions)
    check_shape(function, name, positions.shape, (batch,), because)
    return positions.copy()


def as_mask(function: str, name: str, value: object, shape: tuple[int, ...]) -> Mask:
    """`value` as a bool or float32 view of the given shape (B, H, T, S).

    A boolean mask is True where a query may attend; a float mask is added to the scores. The value
    broadcasts to the shape; repeated axes of the result have stride 0 and take no memory. Where its
    last axis ends early, from 2 on, no query may attend to the keys behind that end.
    """
    array = _array(function, name, value)
    if array.dtype.kind not in "bf":
        hint = f"; for 0 and 1 pass {name}.astype(bool)" if array.dtype.kind in "iu" else ""
        raise TypeError(
            f"{function}: {name} has dtype {array.dtype}, expected bool (True where a query may "
            f"attend) or float (added to the scores){hint}"
        )
    ends_early = array.ndim > 0 and 1 < array.shape[-1] < shape[-1]
    check_broadcast(function, name, array.shape, shape, "(B, H, T, S)", ends_early)
    # A broadcast view is cut back to what it repeats, so that converting it repeats nothing.
    cut = [slice(None) if stride else slice(1) for stride in array.strides]
    if ends_early:
        cut[-1] = slice(None)
    array = array[(..., *cut)]
    dtype = array.dtype if array.dtype == bool else _FLOAT32
    array = _converted(function, name, array, dtype)
    if ends_early:
        masked = False if array.dtype == bool else -np.inf
        whole = np.full((*array.shape[:-1], shape[-1]), masked, array.dtype)
        whole[..., : array.shape[-1]] = array
        array = whole
    return np.broadcast_to(array, shape)


def as_rows(x: NDArray[Any]) -> NDArray[Any]:
    """x (..., n) as (rows, n). The rows are counted here, since n may be 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def check_shape(
    function: str,
    name: str,
    shape: tuple[int, ...],
    expected: Axes,
    because: Because = None,
) -> None:
    """Raise ValueError unless `shape` is as expected.

    `expected` holds, for each axis, the size it must have or a name for any size; a leading `...`
    stands for any number of further axes in front. `because` is the argument that sets the sizes:
    its name and shape.
    """
    is_open = expected[:1] == (...,)
    axes = expected[1:] if is_open else expected
    if len(shape) == len(axes) or (is_open and len(shape) > len(axes)):
        last_axes = shape[len(shape) - len(axes) :]
        if all(isinstance(e, str) or e == s for e, s in zip(axes, last_axes, strict=True)):
            return
    raise ValueError(
        f"{function}: {name} has shape {_shown(shape)}, expected {_shown(expected)}"
        f"{_reason(because)}"
    )


def check_broadcast(
    function: str,
    name: str,
    shape: tuple[int, ...],
    target: tuple[int, ...],
    target_name: str,
    ends_early: bool = False,
) -> None:
    """Raise ValueError unless `shape` broadcasts to `target`, called `target_name` in the error.

    With ends_early the last axis is left out of this.
    """
    axes = target[len(target) - len(shape) :]
    count = len(shape) - ends_early
    if len(shape) > len(target) or any(
        size not in (1, wanted) for size, wanted in zip(shape[:count], axes[:count], strict=True)
    ):
        raise ValueError(
            f"{function}: {name} has shape {_shown(shape)}, expected one that broadcasts to "
            f"{target_name} = {_shown(target)}{'; for padding, pass lengths' * (len(shape) == 2)}"
        )


# Single values.


def as_number(
    function: str,
    name: str,
    value: object,
    minimum: float = -FLOAT32_MAX,
    maximum: float = FLOAT32_MAX,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a float: a real number that float32 can hold, within these bounds."""
    value = _scalar(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{function}: {name} is {brief(value)}, expected a real number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (
        minimum <= number <= maximum
        and (above is None or number > above)
        and (below is None or number < below)
    ):
        bounds = [
            f"{words} {bound:g}"
            for words, bound, has_none in (
                ("at least", minimum, minimum == -FLOAT32_MAX),
                ("above", above, above is None),
                ("at most", maximum, maximum == FLOAT32_MAX),
                ("below", below, below is None),
            )
            if not has_none
        ]
        expected = ", ".join(["a finite number", *([" and ".join(bounds)] if bounds else [])])
        raise ValueError(f"{function}: {name} is {brief(value)}, expected {expected}")
    return number


def as_integer(
    function: str,
    name: str,
    value: object,
    minimum: float = -math.inf,
    maximum: float = math.inf,
) -> int:
    """`value` as an int from `minimum` to `maximum`."""
    value = _scalar(value)
    if isinstance(value, (bool, np.bool_, np.ndarray)) or not hasattr(value, "__index__"):
        raise TypeError(f"{function}: {name} is {brief(value)}, expected an integer")
    value = operator.index(value)
    if not minimum <= value <= maximum:
        expected = f"at least {minimum}" if value < minimum else f"at most {maximum}"
        raise ValueError(f"{function}: {name} is {brief(value)}, expected {expected}")
    return value


def as_size(function: str, name: str, value: object) -> int:
    """`value` as the size of something: an int from 1 to LARGEST_SIZE."""
    return as_integer(function, name, value, 1, LARGEST_SIZE)


def as_num_heads(function: str, value: object, d_model: int) -> int:
    """A number of heads that share d_model evenly."""
    num_heads = as_integer(function, "num_heads", value, minimum=1)
    if d_model % num_heads:
        raise ValueError(
            f"{function}: num_heads is {num_heads}, expected a divisor of d_model = {d_model}"
        )
    return num_heads


def as_flag(function: str, name: str, value: object) -> bool:
    """`value` as a bool, if it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{function}: {name} is {brief(value)}, expected True or False")
    return bool(value)


def as_window(function: str, name: str, value: object) -> tuple[int, int]:
    """A window (left, right) as two ints; an open side, written as None, becomes -1."""
    if value is None:
        return -1, -1
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{function}: {name} is {brief(value)}, expected (left, right)")

    def as_side(i: int) -> int:
        if value[i] is None:
            return -1
        side = as_integer(function, f"{name}[{i}]", value[i], minimum=0)
        # A side that reaches past every key from every position is open.
        return -1 if side > 2 * POSITION_LIMIT else side

    return as_side(0), as_side(1)


class AttentionInputs(NamedTuple):
    """The arguments of scaled_dot_product_attention as the kernels take them."""

    query: Floats  # (B, H, T, K)
    key: Floats  # (B, Hkv, S, K)
    value: Floats  # (B, Hkv, S, Kv)
    mask: Mask | None  # (B, H, T, S)
    lengths: Integers  # (B,)
    offsets: Integers  # (B,)
    is_causal: bool
    left: int  # sides of the window, -1 where open
    right: int
    softcap: float  # 0 for none
    scale: float


def as_attention_inputs(
    function: str,
    query: object,
    key: object,
    value: object,
    *,
    mask: object,
    lengths: object,
    is_causal: object,
    query_offset: object,
    window: object,
    softcap: object,
    scale: object,
) -> AttentionInputs:
    """The checked arguments of scaled_dot_product_attention."""
    queries = as_float32(function, "query", query, ("B", "H", "T", "K"))
    B, H, T, K = queries.shape
    keys = as_float32(function, "key", key, (B, "Hkv", "S", K), ("query", queries.shape))
    _, Hkv, S, _ = keys.shape
    because = ("key", keys.shape)
    if H % Hkv if Hkv else H:
        raise ValueError(
            f"{function}: query has H = {H} heads, expected a multiple of Hkv = {Hkv} because key "
            f"is {keys.shape}"
        )
    values = as_float32(function, "value", value, (B, Hkv, S, "Kv"), because)
    mask = None if mask is None else as_mask(function, "mask", mask, (B, H, T, S))
    if lengths is None:
        counts = np.full(B, S, np.int64)
    else:
        counts = as_lengths(function, "lengths", lengths, B, S, because)
    offsets = as_positions(function, "query_offset", query_offset, B, ("query", queries.shape))
    is_causal = as_flag(function, "is_causal", is_causal)
    left, right = as_window(function, "window", window)
    if softcap is not None:
        softcap = as_number(function, "softcap", softcap, minimum=FLOAT32_TINY)
    # Without a single feature every score is 0, whatever the scale.
    scale = 1 / math.sqrt(max(K, 1)) if scale is None else as_number(function, "scale", scale)
    return AttentionInputs(
        queries, keys, values, mask, counts, offsets, is_causal, left, right, softcap or 0.0, scale
    )


def as_kind(function: str, name: str, value: object, *kinds: type) -> Any:
    """`value`, if it is of one of these classes."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{function}: {name} is {brief(value)}, expected {expected}")
    return value


def as_choice(function: str, name: str, value: Choice, choices: Collection[str | None]) -> Choice:
    """`value`, if it is one of `choices`: strings, or None."""
    is_name = value is None or isinstance(value, str)
    if not is_name or value not in choices:
        listed = ", ".join(map(repr, choices))
        error = ValueError if is_name else TypeError
        raise error(f"{function}: {name} is {brief(value)}, expected one of {listed}")
    return value


# How values are converted and shown.


def _is_ready(value: object, dtype: np.dtype[Any]) -> TypeGuard[NDArray[Any]]:
    if type(value) is not np.ndarray or value.dtype != dtype:
        return False
    flags = value.flags
    return flags.c_contiguous and flags.aligned


def _array(function: str, name: str, value: object) -> NDArray[Any]:
    """np.asarray(value), with errors that name the argument."""
    if value is None:
        raise TypeError(f"{function}: {name} is None, expected an array")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{function}: {name} is not a regular array: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{function}: {name} cannot be read as an array: {error}") from error


def _converted(function: str, name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`array` as `dtype`, C-contiguous and aligned, copied only if it is not."""
    try:
        if array.dtype != dtype:
            # Values beyond float32 become infinite, here as in any other step of the computation.
            with np.errstate(all="ignore"):
                return array.astype(dtype, order="C")
        array = np.asarray(array, order="C")
        return array if array.flags.aligned else array.copy(order="C")
    except MemoryError as error:
        raise MemoryError(
            f"{function}: no memory for {name} as a {dtype} array of shape {_shown(array.shape)}"
        ) from error


def _scalar(value: object) -> object:
    """The number inside a 0-d array, as stored in .npz files; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _shown(shape: Axes) -> str:
    axes = ["..." if axis is ... else str(axis) for axis in shape]
    return f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"


def _reason(because: Because) -> str:
    return "" if because is None else f" because {because[0]} is {_shown(because[1])}"


def brief(value: object) -> str:
    """The value, shortened to one line; an array only by its dtype and shape, and by its type what
    cannot be shown, such as lists nested too deeply."""
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {_shown(value.shape)}"
    try:
        text = repr(value).replace("\n", " ")
    except Exception:
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
