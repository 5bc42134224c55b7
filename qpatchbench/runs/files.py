"""Files that are complete or absent: one atomic writer, one hasher."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qpatchbench.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes; 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_text(size: float) -> str:
    """Bytes in the unit that suits them.

    >>> size_text(1_250_000), size_text(0), size_text(3.4e11)
    ('1.2 MB', '0 bytes', '340.0 GB')
    """
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= each:
            return f"{size / each:.1f} {unit}"
    return f"{size:.0f} bytes"


def write_atomically(path: Path, data: bytes) -> Path:
    """Write through a temporary file, fsync and rename: readers see the old bytes or the new ones, never a part.

    Returns:
        `path`.

    Raises:
        StorageError: the disk is full, read-only or not ours to write on.
    """
    with storage_errors(path), replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty temporary file beside `path` that takes its place, on disk, once it is filled; gone if that fails.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private; give the usual permissions back
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into one clear error."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}. Everything finished before is kept; "
            "free space or choose another place with QPATCHBENCH_CACHE or --output, then run the same command again"
        ) from error


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file."""
    import pyarrow as pa  # slow, and most of this module goes without
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue())
