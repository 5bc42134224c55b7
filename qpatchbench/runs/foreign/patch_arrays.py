"""Patches in arrays: npy, npz and safetensors files, of which Python objects, which are pickles, are refused."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors

from qpatchbench.runs.reading import MEGABYTE
from qpatchbench.statistics.intervals import Array

MOST_BYTES = 200 * MEGABYTE  # of one array
MOST_ARRAYS = 64
MAGIC = b"\x93NUMPY"
# What the arrays of a file may be called; a patch may also be the only one there.
PATCH, MASK, TARGETS = ("patch", "patches", "textures"), ("mask", "masks"), ("targets", "target", "goals")


def array_file(data: bytes) -> Array:
    """The array of an npy file.

    Raises:
        ValueError: it is none, holds Python objects, or another number of bytes than its shape asks for.
    """
    file = io.BytesIO(data)
    if not data.startswith(MAGIC):
        raise ValueError(f"expected an npy file, found {_disguise(data)}")
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"expected an npy file of version 1 or 2, found {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except Exception as error:  # numpy reads the header as Python text, of which many kinds of errors come
        raise ValueError(f"expected an npy file, found one that cannot be read: {error}") from None
    if dtype.hasobject:
        raise ValueError("expected numbers, found Python objects, which are a pickle and are not read")
    wanted, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if wanted != found or any(side < 0 for side in shape) or not dtype.itemsize:
        raise ValueError(f"expected {wanted:,} bytes for {dtype} of the shape {shape}, found {found:,}")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")


def array_files(data: bytes) -> Mapping[str, Array]:
    """`patch`, and `mask` and `targets` where there are such, of an npz file.

    Raises:
        ValueError: it is none, or holds no patch, Python objects or more bytes than a patch can have.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ARRAYS:
                raise ValueError(f"expected at most {MOST_ARRAYS} arrays, found {len(entries)}")
            arrays = {entry.filename.removesuffix(".npy"): array_file(_entry(archive, entry)) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        found = _disguise(data) if not data.startswith(b"PK") else f"one that cannot be read: {error}"
        raise ValueError(f"expected an npz file, found {found}") from None
    return named(arrays)


def tensor_file(data: bytes) -> Mapping[str, Array]:
    """`patch`, and `mask` and `targets` where there are such, of a safetensors file, of a run or of others.

    Raises:
        ValueError: it is none, holds no patch, or one patch for each of many images.
    """
    try:
        arrays = parse_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        goals = json.loads(metadata.get("goals", "[]"))
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"expected a safetensors file, found one that cannot be read: {error}") from None
    parts = dict(named(arrays))
    if isinstance(goals, list) and goals and "targets" not in parts:
        if len(goals) != len(parts["patch"]):
            raise ValueError(
                f"expected a patch for each of {len(goals)} goals, found {len(parts['patch'])}: those of an attack "
                "that makes one for each image are of use on those images alone"
            )
        if all(str(goal).isdecimal() for goal in goals):
            parts["targets"] = np.array([int(goal) for goal in goals])
    return parts


def named(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Arrays by what they are.

    Raises:
        ValueError: which one is the patch cannot be told.
    """
    found = {
        part: arrays[name]
        for part, names in (("patch", PATCH), ("mask", MASK), ("targets", TARGETS))
        for name in reversed(names)
        if name in arrays
    }
    others = [name for name in arrays if name not in (*MASK, *TARGETS)]
    if "patch" not in found and len(others) == 1:
        found["patch"] = arrays[others[0]]
    if "patch" not in found:
        raise ValueError(f"expected an array named patch, found {', '.join(map(ascii, arrays)) or 'none'}")
    return found


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes of an array, found {entry.file_size:,}")
    with archive.open(entry) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes of an array, found more")
    return data


def _disguise(data: bytes) -> str:
    """What a file is that is not what its name says."""
    known = {b"\x80": "a pickle, which is not read, since reading one runs code", b"PK": "a zip archive"}
    return next((what for start, what in known.items() if data.startswith(start)), "something else")
