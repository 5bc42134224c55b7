"""The two file formats of https://www.cs.toronto.edu/~kriz/cifar.html, read without running anything in them.

Binary version: records of label bytes and 3072 pixel bytes. Python version: a pickle, which is never
unpickled. Its checksum is compared with the published one, and its opcodes are then read as data: the one
long string is the pixels, the integers after the key of the labels are the labels.
"""

from __future__ import annotations

import hashlib
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE


@dataclass(frozen=True)
class BatchFile:
    """One published file.

    Attributes:
        name: of the file.
        pool: "train" or "test".
        records: number of images in it.
        md5: published checksum; "" where none is published.
    """

    name: str
    pool: str
    records: int
    md5: str = ""


@dataclass(frozen=True)
class CifarBatch:
    """Images (N, 3, 32, 32) uint8 and N labels."""

    pixels: np.ndarray[Any, Any]
    labels: list[int]


def read_binary(path: Path, file: BatchFile, label_bytes: int, num_classes: int) -> CifarBatch:
    """Read one file of the binary version.

    Args:
        path: the file.
        file: what it should hold.
        label_bytes: bytes before the pixels; the last one is the label.
        num_classes: labels are below it.

    Raises:
        DataError: its size or a label is not what it should be.
    """
    import numpy as np

    data = np.fromfile(path, dtype=np.uint8)
    record = label_bytes + IMAGE_BYTES
    if data.size != file.records * record:
        raise DataError(f"{path}: expected {file.records} records of {record} bytes, found {data.size} bytes")
    records = data.reshape(file.records, record)
    labels = records[:, label_bytes - 1].tolist()
    _expect_labels(path, file, labels, num_classes)
    return CifarBatch(records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE), labels)


def read_python(path: Path, file: BatchFile, label_key: str, num_classes: int) -> CifarBatch:
    """Read one file of the python version.

    Args:
        path: the file.
        file: what it should hold, and its checksum.
        label_key: "labels" or "fine_labels".
        num_classes: labels are below it.

    Raises:
        DataError: the checksum is not the published one, or pixels and labels are not where they should be.
    """
    import numpy as np

    data = path.read_bytes()
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != file.md5:
        raise DataError(
            f"{path}: expected the published file with md5 {file.md5}, found md5 {found}; "
            f"it is damaged or not the original, and is not read"
        )
    try:
        pixels, labels = _scan(data, label_key)
    except ValueError as error:
        raise DataError(f"{path}: expected a file of the CIFAR python version, found: {error}") from error
    if len(pixels) != file.records * IMAGE_BYTES:
        raise DataError(f"{path}: expected {file.records} images of {IMAGE_BYTES} bytes, found {len(pixels)} bytes")
    _expect_labels(path, file, labels, num_classes)
    return CifarBatch(np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 3, SIDE, SIDE), labels)


def _scan(data: bytes, label_key: str) -> tuple[bytes, list[int]]:
    """Longest string and the list of integers that follows the string `label_key`."""
    longest: str | bytes = b""
    labels: list[int] = []
    key: str | bytes = b""
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str | bytes):
            longest = max(longest, argument, key=len)
            key = argument
        elif _is_key(key, label_key) and opcode.name in ("BININT1", "BININT", "BININT2"):
            assert isinstance(argument, int)  # by definition of these opcodes
            labels.append(argument)
    # Python 2 wrote raw strings, which pickletools shows as Latin-1 text.
    return longest.encode("latin-1") if isinstance(longest, str) else longest, labels


def _is_key(found: str | bytes, key: str) -> bool:
    return found in (key, key.encode())


def _expect_labels(path: Path, file: BatchFile, labels: list[int], num_classes: int) -> None:
    if len(labels) != file.records or not all(0 <= label < num_classes for label in labels):
        highest = max(labels, default=None)
        raise DataError(
            f"{path}: expected {file.records} labels in 0..{num_classes - 1}, "
            f"found {len(labels)}, the highest {highest}"
        )
