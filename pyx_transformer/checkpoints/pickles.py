"""What PyTorch pickles: tensors, their storages and plain containers, and nothing else.

The opcodes of a pickle are followed here, on a stack of our own, so that nothing is imported or
called: of the names in it those of NAMES stand for what they make, and any other is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple


class Storage(NamedTuple):
    """Numbers of one type in a row: the key under which they lie, and how many they are."""

    dtype: str  # as in a safetensors file
    key: str
    size: int


class View(NamedTuple):
    """A tensor: the elements of a storage from `offset` on, with strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
MOST_AXES = 32


def tensor_of(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    """torch._utils._rebuild_tensor_v2"""
    whole = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in whole):
        raise ValueError("a tensor is made of what is no storage, offset, shape and strides")
    if len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise ValueError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if all(shape) and (last >= storage.size or math.prod(shape) > storage.size):
        raise ValueError(f"a tensor of shape {tuple(shape)} does not fit its storage")
    return View(storage, offset, tuple(shape), tuple(strides))


def parameter_of(tensor: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter"""
    return tensor


def dict_of(*entries: Any) -> dict[Any, Any]:
    """collections.OrderedDict, which is pickled empty or with a list of pairs."""
    return dict(*entries)


NAMES: dict[str, Any] = {
    "torch._utils _rebuild_tensor_v2": tensor_of,
    "torch._utils _rebuild_parameter": parameter_of,
    "collections OrderedDict": dict_of,
    **{f"torch {name}": dtype for name, dtype in STORAGES.items()},
}
CALLED = (tensor_of, parameter_of, dict_of)


def read(file: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """What a pickle holds, the file being left behind its end; storages takes all that it names.

    Raises ValueError for anything else than tensors and plain containers.
    """
    machine = _Machine({} if storages is None else storages)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.pop()
        machine.follow(opcode.name, argument)
    raise ValueError("it has no end")


class _Mark:
    """A place on the stack."""


MARK = _Mark()
# What stands for itself.
PLAIN = {
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
}
MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: MARK,
}


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise ValueError("it takes more than it has put down")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise ValueError("it takes more than it has put down")
        self.stack.pop()
        return items[::-1]

    def last(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"it adds to what is no {kind.__name__}")
        return self.stack[-1]

    def follow(self, name: str, argument: Any) -> None:
        """One opcode."""
        put = self.stack.append
        if name in PLAIN:
            put(argument)
        elif name in MADE:
            put(MADE[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            value = self.pop()
            put(value)
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = value
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if int(argument) not in self.memo:
                raise ValueError("it gets what it has not put")
            put(self.memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            put(tuple(reversed([self.pop() for _ in range(int(name[-1]))])))
        elif name == "TUPLE":
            put(tuple(self.pop_to_mark()))
        elif name == "APPEND":
            value = self.pop()
            self.last(list).append(value)
        elif name == "APPENDS":
            values = self.pop_to_mark()
            self.last(list).extend(values)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif name == "SETITEMS":
            self.set_items(self.pop_to_mark())
        elif name == "GLOBAL":
            put(named(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            put(named(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            put(called(function, arguments))
        elif name == "BUILD":  # an OrderedDict's attributes: versions of modules
            self.pop()
            self.last(dict)
        elif name == "BINPERSID":
            storage = storage_of(self.pop())
            if self.storages.setdefault(storage.key, storage) != storage:
                raise ValueError("it gives a storage two types or sizes")
            put(storage)
        else:
            raise ValueError(f"it holds {name}, which no tensor needs")

    def set_items(self, items: list[Any]) -> None:
        """Keys and values, one after the other, into the last dict."""
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, (str, int)) for key in keys):
            raise ValueError("it has a dict whose keys are no words or numbers")
        self.last(dict).update(zip(keys, values, strict=True))


def named(name: str) -> Any:
    """What a name stands for."""
    if name not in NAMES:
        raise ValueError(
            f"it names {name.replace(' ', '.', 1)[:200]!r}, which is refused: only tensors and "
            "plain containers are read"
        )
    return NAMES[name]


def called(function: Any, arguments: Any) -> Any:
    """What a call of one of NAMES gives."""
    if function not in CALLED or not isinstance(arguments, tuple):
        raise ValueError("it calls what is no function")
    try:
        return function(*arguments)
    except TypeError as error:
        raise ValueError(f"it calls a function with what that does not take: {error}") from error


def storage_of(identity: Any) -> Storage:
    """('storage', type, key, device, size), to which older files add None, or a part of another."""
    if isinstance(identity, tuple) and len(identity) in (5, 6):
        kind, dtype, key, _, size, *view = identity
        plain = kind == "storage" and isinstance(key, str) and type(size) is int and size >= 0
        if plain and dtype in STORAGES.values() and view in ([], [None]):
            return Storage(dtype, key, size)
    raise ValueError("it holds a storage that is none")
