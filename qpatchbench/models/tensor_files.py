"""Tensor files of strangers: read without running anything in them and without taking more memory than they have bytes.

torch's own restricted reader runs no code, but builds what a pickle names: `bytearray(10**12)` is 40 bytes of one. So
the names that a pickle calls are read beforehand, as data, and only those that put tensors together are let through.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from qpatchbench.errors import WeightsError
from qpatchbench.runs.reading import MEGABYTE

MOST_BYTES_OF_PICKLE = 100 * MEGABYTE
LEGACY_PICKLES = 5  # of files from before torch 1.6, one after the other: magic, protocol, system, content, storages
REBUILD = "torch._utils _rebuild_"
CALLED = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch.serialization _get_layout",
        "_codecs encode",
        "builtins set",
        "__builtin__ set",
        f"{REBUILD}tensor",
        f"{REBUILD}tensor_v2",
        f"{REBUILD}tensor_v3",
        f"{REBUILD}parameter",
        f"{REBUILD}parameter_with_state",
    }
)


def read_safetensors(path: Path) -> object:
    """Tensors by name of a safetensors file.

    Raises:
        WeightsError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: expected a safetensors file, found one that cannot be read: {error}") from error


def read_torch(path: Path) -> object:
    """What `torch.save` wrote, as far as it is plain data and tensors.

    Raises:
        WeightsError: it is something else, or more.
    """
    try:
        _inspect(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"Unsupported \w+ \S+|unsupported GLOBAL \S+|calls \S+", str(error), re.IGNORECASE)
        reason = f" ({blocked.group()})" if blocked else ""
        raise WeightsError(
            f"{path} was refused, not executed: it holds something other than plain tensors{reason}. Expected "
            "a state dict; ask its author for a .safetensors file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path}: expected a file written by torch.save, found one that cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _inspect(path: Path) -> None:
    """Look at a file before torch does.

    Raises:
        pickle.UnpicklingError: it calls something that puts no tensors together.
        ValueError: it is packed, so that its size says nothing about what it takes.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                _expect_known_calls(file)
            return
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"expected entries that are not compressed, as torch.save writes them, found {packed[0]}")
        for entry in archive.infolist():
            if entry.filename.rpartition("/")[2] == "data.pkl":
                if entry.file_size > MOST_BYTES_OF_PICKLE:
                    raise ValueError(
                        f"expected at most {MOST_BYTES_OF_PICKLE:,} bytes of names, found {entry.file_size:,}"
                    )
                with archive.open(entry) as content:
                    _expect_known_calls(content)


def _expect_known_calls(file: IO[bytes]) -> None:
    for name in _calls(file):
        if name not in CALLED:
            raise pickle.UnpicklingError(f"calls {(name or 'something computed').replace(' ', '.')}")


def _calls(file: IO[bytes]) -> Iterator[str | None]:
    """Names that a pickle calls, found by carrying its names, and nothing else, over its stack; None: no name."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "GLOBAL":
                stack.append(argument)
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo.get(argument))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "DUP":
                stack.append(stack[-1])
            case "MARK":
                stack.append(pickletools.markobject)
            case _:
                if opcode.name in ("REDUCE", "NEWOBJ"):
                    yield stack[-2]
                elif opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                    yield opcode.name  # torch writes none of them
                _drop(stack, opcode)
                stack += [None] * len(opcode.stack_after)


def _drop(stack: list[Any], opcode: pickletools.OpcodeInfo) -> None:
    """Take from the stack what an opcode takes."""
    taken = opcode.stack_before
    if pickletools.markobject in taken:
        while stack.pop() is not pickletools.markobject:
            pass
        taken = taken[: taken.index(pickletools.markobject)]
    if taken:
        del stack[-len(taken) :]


def plain(content: object, nested: tuple[str, ...], path: Path) -> object:
    """What lies inside the mappings that training scripts put around a network.

    Raises:
        WeightsError: the file holds the network twice, for example as it is and averaged (EMA).
    """
    inner = content
    for _ in range(len(nested) + 1):
        outer = [key for key in nested if isinstance(inner, Mapping) and isinstance(inner.get(key), Mapping)]
        if not isinstance(inner, Mapping) or not outer:
            break
        inner = inner[outer[0]]
    if isinstance(content, Mapping) and inner is not content and isinstance(inner, Mapping):
        others = [
            name for name, found in _mappings(content, "", 3) if found is not inner and _rivals(name, found, inner)
        ]
        if others:
            raise WeightsError(
                f"{path}: expected one network, found {_named(content, inner)} and {', '.join(others)}, which may be "
                "another state of it (such as an average, EMA): save the one that is meant in a file of its own"
            )
    return inner


def _mappings(content: Mapping[Any, Any], path: str, depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and depth:
            name = f"{path}.{key}" if path else str(key)
            yield name, value
            yield from _mappings(value, name, depth - 1)


def _rivals(name: str, found: Mapping[Any, Any], chosen: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds another state of the chosen network: by its name, or by the names of its tensors."""
    tensors = {str(key).removeprefix("module.") for key, value in found.items() if torch.is_tensor(value)}
    own = {str(key).removeprefix("module.") for key, value in chosen.items() if torch.is_tensor(value)}
    called = "ema" in re.split(r"[^a-z]+", name.lower())
    return bool(tensors) and (called or 2 * len(tensors & own) > len(own))


def _named(content: Mapping[Any, Any], inner: Mapping[Any, Any]) -> str:
    return next((name for name, found in _mappings(content, "", 3) if found is inner), "a network")
