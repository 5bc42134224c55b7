"""A pickle read as data: numbers, text, collections and tensors; anything else that it would call is refused.

The opcodes are carried out here, one by one, so that no object is built and no function is called that the pickle
names. What torch writes of a tensor (`torch.save` before version 1.6, as it stands in pickles) becomes a numpy array.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpatchbench.statistics.intervals import Array

MOST_OPCODES = 100_000
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES"}
    | {"SHORT_BINBYTES", "BINUNICODE8", "BINBYTES8"}
)
STORAGES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ByteStorage": "u1",
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
BUILT = "torch._utils _rebuild_tensor_v2"
LOADED = "torch.storage _load_from_bytes"
ORDERED = "collections OrderedDict"


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Kept:
    """A storage that stands elsewhere in the file: the type of its numbers, its key and their count."""

    facts: tuple[Any, ...]


def data_of(pickled: bytes) -> Any:  # noqa: ANN401 (plain data of any kind)
    """The value of a pickle, tensors as arrays.

    Raises:
        ValueError: it is damaged, or calls something that puts no tensor together; says what.
    """
    return _value(io.BytesIO(pickled))


def _value(file: io.BytesIO) -> Any:  # noqa: ANN401 (plain data of any kind)
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number > MOST_OPCODES:
                raise ValueError(f"expected a pickle of at most {MOST_OPCODES:,} steps, found more")
            if opcode.name == "STOP":
                return stack.pop()
            _step(opcode.name, argument, stack, marks, memo)
    except (
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        UnicodeDecodeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"expected a pickle, found a damaged one: {type(error).__name__}: {error}") from None
    raise ValueError("expected a pickle, found a part of one")


def _step(name: str, argument: Any, stack: list[Any], marks: list[int], memo: dict[int, Any]) -> None:  # noqa: ANN401 (as pickletools has it)
    if name in LITERALS:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in EMPTY:
        stack.append(EMPTY[name]())
    elif name in TUPLES:
        stack.append(tuple(_taken(stack, len(stack) - TUPLES[name])))
    elif name in ("PROTO", "FRAME"):
        pass
    elif name == "MARK":
        marks.append(len(stack))
    elif name == "TUPLE":
        stack.append(tuple(_taken(stack, marks.pop())))
    elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(_Name(argument if name == "GLOBAL" else " ".join(_taken(stack, len(stack) - 2))))
    elif name == "BINPERSID":
        stack.append(_Kept(stack.pop()))
    elif name in ("SETITEMS", "SETITEM"):
        pairs = _taken(stack, marks.pop() if name == "SETITEMS" else len(stack) - 2)
        if not all(type(key) in (str, int) for key in pairs[::2]):  # hashing nested tuples may take for ever
            raise ValueError("expected keys that are words or whole numbers, found others")
        stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
    elif name in ("APPENDS", "APPEND"):
        items = _taken(stack, marks.pop() if name == "APPENDS" else len(stack) - 1)
        stack[-1].extend(items)
    elif name == "REDUCE":
        function, arguments = _taken(stack, len(stack) - 2)
        stack.append(_called(function, arguments))
    else:
        raise ValueError(f"expected plain data and tensors, found the step {name}; nothing of it was run")


def _taken(stack: list[Any], start: int) -> list[Any]:
    """Everything on the stack from `start` on, which leaves it."""
    if start < 0:
        raise IndexError("nothing to take")
    found = stack[start:]
    del stack[start:]
    return found


def _called(function: object, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 (plain data of any kind)
    """What a call that is known would give; the named function itself is never looked up."""
    name = function.text if isinstance(function, _Name) else ""
    if name == ORDERED and not arguments:
        return {}
    if name == LOADED:
        return _storage(*arguments)
    if name == BUILT:
        return _tensor(*arguments[:4])
    shown = name.replace(" ", ".") or "something computed"
    raise ValueError(f"expected plain data and tensors, found a call of {shown}; nothing of it was run")


def _storage(data: bytes) -> Array:
    """The numbers of one storage as torch wrote it before version 1.6, (n,) of their own type."""
    if not isinstance(data, bytes):
        raise ValueError("expected the bytes of a tensor, found something else")
    file = io.BytesIO(data)
    magic, _, _, kept, keys = (_value(file) for _ in range(5))
    if magic != LEGACY_MAGIC or not isinstance(kept, _Kept) or not isinstance(keys, list) or len(keys) != 1:
        raise ValueError("expected one tensor as torch.save wrote it before version 1.6, found something else")
    _, kind, _, _, count, *_ = kept.facts
    dtype = STORAGES.get(kind.text if isinstance(kind, _Name) else "")
    if dtype is None:
        raise ValueError(f"expected a tensor of {', '.join(STORAGES)}, found another")
    found = int.from_bytes(file.read(8), "little")
    rest = len(data) - file.tell()
    if found != count or rest != count * np.dtype(dtype).itemsize:
        raise ValueError(f"expected {count} numbers, found {found} in {rest:,} bytes")
    return np.frombuffer(data, dtype, offset=file.tell())


def _tensor(storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view of a storage, all of whose numbers lie inside it."""
    counts = [offset, *shape, *strides]
    if not isinstance(storage, np.ndarray) or not all(type(each) is int and each >= 0 for each in counts):
        raise ValueError("expected a tensor of whole offsets, sides and strides, found something else")
    size = int(np.prod(shape, dtype=object))
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if size < 1 or size > len(storage) or last >= len(storage):
        raise ValueError(f"expected a tensor within its {len(storage)} numbers, found the shape {tuple(shape)}")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(shape), steps, writeable=False)
