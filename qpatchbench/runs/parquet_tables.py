"""Parquet files of strangers: what they hold is counted before it is decoded.

A column that repeats one long text takes a few bytes in the file and any amount in memory, so text is read as a
dictionary, and its length added up before a single row is spelt out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qpatchbench.errors import ArtifactError

MOST_ROWS = 10_000_000  # that are read at once; the largest cells have 500,000
MOST_BYTES = 1_000_000_000  # of the decoded columns read at once
MOST_TEXT = 200_000_000  # characters of rows that are spelt out


def opened(path: Path) -> pq.ParquetFile:
    """A parquet file whose text columns are read as dictionaries; no row is read yet.

    Raises:
        ArtifactError: it is none, or has columns that are neither numbers nor text.
    """
    with damage(path):
        names = [field.name for field in pq.read_schema(path) if _is_text(field.type)]
        file = pq.ParquetFile(path, read_dictionary=names)
        odd = [f"{field.name} ({field.type})" for field in file.schema_arrow if not _is_plain(field.type)]
    if odd:
        raise ArtifactError(f"{path}: expected columns of numbers and text, found {', '.join(odd[:3])}")
    return file


def expect_modest(path: Path, file: pq.ParquetFile, groups: Sequence[int]) -> None:
    """Check what row groups would take, by the file's own footer.

    Raises:
        ArtifactError: more than `MOST_ROWS` or `MOST_BYTES`.
    """
    parts = [file.metadata.row_group(group) for group in groups]
    rows, size = sum(part.num_rows for part in parts), sum(part.total_byte_size for part in parts)
    if rows > MOST_ROWS:
        raise ArtifactError(f"{path}: expected at most {MOST_ROWS:,} rows at once, found {rows:,}")
    if size > MOST_BYTES:
        raise ArtifactError(f"{path}: expected at most {MOST_BYTES:,} bytes at once, found {size:,}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a small table, as mappings.

    Raises:
        ArtifactError: it is damaged, or larger than any run writes it.
    """
    with opened(path) as file:
        expect_modest(path, file, range(file.num_row_groups))
        with damage(path):
            table = file.read()
    text = sum(_characters(column) for column in table.columns if pa.types.is_dictionary(column.type))
    if text > MOST_TEXT:
        raise ArtifactError(f"{path}: expected at most {MOST_TEXT:,} characters of text, found {text:,}")
    with damage(path):
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what Arrow says of bytes that it cannot read into one clear error."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        IndexError,
    ) as error:  # the last two of damaged dictionaries
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: expected a parquet file, found one that cannot be read: {reason}") from None


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return _is_text(kind) or any(is_kind(kind) for is_kind in numbers)


def _characters(column: pa.ChunkedArray) -> int:
    """Length of all texts of a dictionary column, repetitions counted."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
        total += pc.sum(lengths).as_py() or 0
    return total
