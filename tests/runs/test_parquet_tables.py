"""Files of a run folder: what a stranger may have put into them is counted before it is decoded."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qpatchbench.errors import ArtifactError
from qpatchbench.runs import parquet_tables
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.parquet_tables import expect_modest, opened, read_rows


def repeated(text: str, rows: int) -> pa.Table:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])
    return pa.table({"cell": column})


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_rows_are_those_of_arrow(tmp_path: Path) -> None:
    table = pa.table(
        {"name": ["a", None, "a"], "number": [1, 2, 3], "rate": [0.5, None, 1.0], "yes": [True, False, None]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet") == table.to_pylist()


def test_a_text_repeated_a_million_times_is_counted_and_not_spelt_out(tmp_path: Path) -> None:
    """A file of kilobytes whose rows stand for 20 GB."""
    path = tmp_path / "cells.parquet"
    pq.write_table(repeated("x" * 20_000, 1_000_000), path, compression="zstd")
    assert path.stat().st_size < 200_000
    before = peak()
    with pytest.raises(ArtifactError) as caught:
        read_rows(path)
    assert str(caught.value) == f"{path}: expected at most 200,000,000 characters of text, found 20,000,000,000"
    assert peak() - before < 300_000, "kilobytes"


def test_rows_without_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"number": np.zeros(10_000_001, np.int8)}), path)
    with pytest.raises(ArtifactError, match=r"expected at most 10,000,000 rows at once, found 10,000,001$"):
        read_rows(path)


def test_bytes_are_counted_by_the_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"name": ["x" * 5_000]}), path, compression="zstd")
    monkeypatch.setattr(parquet_tables, "MOST_BYTES", 1_000)
    with opened(path) as file, pytest.raises(ArtifactError, match="expected at most 1,000 bytes at once, found 5,"):
        expect_modest(path, file, [0])


def test_nested_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"a": [[1, 2]], "b": [b"x"]}), path)
    with pytest.raises(ArtifactError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}: expected columns of numbers and text, found a (list<")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1", b"no table"])
def test_what_is_no_parquet_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cells.parquet").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"cells.parquet: expected a parquet file, found one that cannot be read: "):
        read_rows(tmp_path / "cells.parquet")


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"name": [str(n) for n in range(1000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="expected a parquet file, found one that cannot be read"):
        read_rows(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "expected JSON of a few levels, found some nested too deeply"),
        ('{"a": ' + "1" * 5_000 + "}", "expected JSON: "),
        ("\udcff", "expected JSON: "),
        ("[]", "expected a JSON object, found list"),
    ],
)
def test_a_manifest_that_is_none_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_manifest_larger_than_any_run_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(40_000_000)
    with pytest.raises(ArtifactError, match="cannot be read: expected at most 30 MB, found 40.0 MB$"):
        read_manifest(path)


def test_no_terminal_gets_what_a_manifest_says(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"suite": "a\x1b[2J", "jobs": [{"k\x07": "x\u202ey", "error": "two\n\tlines"}], "n": 1}))
    assert read_manifest(path) == {
        "suite": "a\\x1b[2J",
        "jobs": [{"k\\x07": "x\\u202ey", "error": "two\n\tlines"}],
        "n": 1,
    }
