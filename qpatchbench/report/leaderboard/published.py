"""Run folders read for comparison: rows of the leaderboard and of analyses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError
from qpatchbench.report.leaderboard.row import Row, read_row
from qpatchbench.runs.layout import CELLS, LEADERBOARD, MANIFEST
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.reading import read_table_text


@dataclass(frozen=True)
class RunFolder:
    """A finished run, or what was published of it: manifest.json and leaderboard.csv are enough.

    Attributes:
        name: the folder as it was given.
        manifest: facts about the run.
        rows: of the leaderboard, with numbers as leaderboard.csv states them.
        costs, similarity, gradients: rows of those analyses; none where the run had none.
    """

    name: str
    manifest: Mapping[str, Any]
    rows: tuple[Row, ...]
    costs: tuple[Mapping[str, Any], ...] = ()
    similarity: tuple[Mapping[str, Any], ...] = field(default=())
    gradients: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def dataset(self) -> str:
        """As the rows call it, with its note: cifar10 (jpeg)."""
        return str(self.manifest.get("dataset_note") or "")

    @property
    def whole_costs(self) -> tuple[Mapping[str, Any], ...]:
        """Costs of trainings with all their bit-widths; a run may have measured them with fewer, too."""
        return tuple(row for row in self.costs if row.get("all_widths") is not False)

    @property
    def suite(self) -> Mapping[str, Any]:
        """The resolved suite; empty where the manifest has none."""
        found: Mapping[str, Any] = self.manifest.get("resolved") or {}
        return found


def read_folder(directory: Path) -> RunFolder:
    """Read a run folder.

    The leaderboard that the run wrote is used; it is computed anew where it is missing or older than the cells.

    Raises:
        ArtifactError: no run folder, or a damaged file.
    """
    path = directory / MANIFEST
    cells, board = directory / CELLS, directory / LEADERBOARD
    if not path.is_file() or not (cells.is_file() or board.is_file()):
        raise ArtifactError(
            f"{directory}: expected a run folder with manifest.json and {LEADERBOARD} or cells.parquet, found "
            f"{listing(directory)}"
        )
    manifest = read_manifest(path)
    fresh = board.is_file() and not (cells.is_file() and cells.stat().st_mtime > board.stat().st_mtime)
    return RunFolder(
        str(directory),
        manifest,
        read_board(board) if fresh else _computed(directory),
        _analysis(directory / "costs"),
        _analysis(directory / "similarity"),
        _analysis(directory / "gradients"),
    )


def read_board(path: Path) -> tuple[Row, ...]:
    """The rows of a leaderboard.csv.

    Raises:
        ArtifactError: it is none, or a number in it is no number.
    """
    records = list(_records(path))
    if records and not {"dataset", "model", "asr", "asr_low", "patch_height"} <= set(records[0]):
        raise ArtifactError(f"{path}: expected a leaderboard, found columns {', '.join(records[0])}")
    rows = []
    for number, record in enumerate(records, 1):
        try:
            rows.append(read_row(record))
        except KeyError as error:
            raise ArtifactError(f"{path}: expected a column {error.args[0]}, found {', '.join(record)}") from None
        except ValueError as error:
            raise ArtifactError(f"{path}, row {number}: expected numbers, found another text: {error}") from None
    return tuple(rows)


def _computed(directory: Path) -> tuple[Row, ...]:
    # Imported here: a written leaderboard needs no outcomes.
    from qpatchbench.report.leaderboard.board import Leaderboard
    from qpatchbench.runs.run import Run

    return tuple(row.rounded() for row in Leaderboard(Run(directory)).rows)


def _analysis(stem: Path) -> tuple[Mapping[str, Any], ...]:
    """Rows of an analysis; of the rounded .csv where that is all that was published."""
    whole, readable = stem.with_suffix(".parquet"), stem.with_suffix(".csv")
    if whole.is_file():
        from qpatchbench.runs.parquet_tables import read_rows

        return tuple(read_rows(whole))
    if not readable.is_file():
        return ()
    return tuple({name: _value(name, text) for name, text in row.items()} for row in _records(readable))


def _records(path: Path) -> Iterator[dict[str, str]]:
    """Lines of a table, each with as many fields as its first line names.

    Raises:
        ArtifactError: it is none.
    """
    try:
        for number, record in enumerate(csv.DictReader(read_table_text(path).splitlines()), 1):
            if None in record or None in record.values():
                raise ArtifactError(f"{path}, row {number}: expected as many fields as the first line names")
            yield record
    except csv.Error as error:
        raise ArtifactError(f"{path}: expected a table, found something else: {error}") from None


def _value(name: str, text: str) -> Any:  # noqa: ANN401 (what the text says)
    """A cell of a .csv as the type that it was written from; bit-widths are text: `32`, `w8a4`, `32 8 4`."""
    if name.endswith("bits"):
        return text
    if text in (known := {"": None, "True": True, "False": False}):
        return known[text]
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def listing(directory: Path) -> str:
    """What a message says of a folder: its first files."""
    if not directory.is_dir():
        return "no such folder"
    names = sorted(path.name for path in directory.iterdir())
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "an empty folder"
