"""A run folder as values: manifest, cell records, and each cell's outcomes, read when they are wanted."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from qpatchbench.errors import ArtifactError
from qpatchbench.labels import is_printable
from qpatchbench.runs.example_images import Examples
from qpatchbench.runs.layout import CELLS, EXAMPLES, MANIFEST, OUTCOMES
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.outcomes import Outcomes, StoredOutcomes, assert_identities
from qpatchbench.runs.parquet_tables import damage, expect_modest, opened, read_rows
from qpatchbench.runs.reading import expect_present
from qpatchbench.runs.records import SCHEMA_VERSION, CellRecord
from qpatchbench.statistics.intervals import Array

_COUNTED = ("n_eligible", "n_fooled", "n_hit", "n_robust")
_PREDICTED = ("goal", "image", "label", "clean_prediction", "patched_prediction")
_TEXTS = ("cell", "goal", "image")
_NUMBERS = ("label", "clean_prediction", "patched_prediction", "row", "column")
OUTCOME_COLUMNS = (*_TEXTS, *_NUMBERS, "queries", "attacked")
_KEPT = 24  # cells whose outcomes stay in memory: one row's cells, controls and sources
_READ = 8  # row groups that stay in memory: cells of a row lie in several


class PlacedAnswer(NamedTuple):
    """An image under a patch.

    Attributes:
        row, column: top-left pixel of the patch.
        clean_prediction, patched_prediction: without and with it.
        attacked: whether its attack did not leave the image alone.
    """

    row: int
    column: int
    clean_prediction: int
    patched_prediction: int
    attacked: bool = True


class Run:
    """What a run left behind; outcomes are read cell by cell, because all of them may not fit into memory.

    Attributes:
        manifest: facts about the run.
        cells: one record per cell, in the order of the file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = _manifest(directory / MANIFEST)
        self.cells = read_cells(directory / CELLS)
        self._by_key = {cell.cell: cell for cell in self.cells}
        path = directory / OUTCOMES
        expect_present(path)
        self._file = opened(path)
        _expect_outcomes(path, self._file)
        with damage(path):
            self._segments = _segments_by_cell(path, self._file)
        self._read: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._recent: OrderedDict[str, Outcomes] = OrderedDict()
        self._reference: dict[str, tuple[tuple[str, ...], Array]] = {}

    @property
    def measured_cells(self) -> frozenset[str]:
        """Keys of the cells that outcomes.parquet holds."""
        return frozenset(self._segments)

    def outcomes(self, cell: CellRecord) -> Outcomes:
        """Predictions of a cell, checked against its record.

        Raises:
            ArtifactError: they are missing, or contradict the record or the images of other cells.
        """
        key = cell.cell
        if key not in self._recent:
            table = self._table(key, [*_PREDICTED, *self._later("attacked")])
            with damage(self.directory / OUTCOMES):
                outcomes, ids, _ = _arranged(cell, table)
            self._check(cell, outcomes, ids)
            self._recent[key] = outcomes
            if len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def stored(self, cell: CellRecord) -> StoredOutcomes:
        """Predictions of a cell with where its patches lay, as they are in the file: not held against the record.

        Raises:
            ArtifactError: they are missing, or not one for every goal and image.
        """
        names = [*_PREDICTED, "row", "column", *self._later("queries", "attacked")]
        table = self._table(cell.cell, names)
        with damage(self.directory / OUTCOMES):
            outcomes, ids, others = _arranged(cell, table)
        queries = others.get("queries")
        known = queries is not None and not np.isnan(queries.astype(float)).any()
        return StoredOutcomes(outcomes, ids, others["row"], others["column"], queries if known else None)

    def placed(self, cell: CellRecord, images: tuple[str, ...]) -> dict[str, PlacedAnswer]:
        """Of some images: where the cell's first goal's patch lies, and the predictions."""
        names = ("image", *PlacedAnswer._fields)
        known = [name for name in names if name != "attacked" or self._later(name)]
        table = self._table(cell.cell, ["goal", *known])
        first = pc.equal(pc.cast(table["goal"], pa.string()), cell.counts[0].goal)
        chosen = pc.and_(first, pc.is_in(pc.cast(table["image"], pa.string()), value_set=pa.array(images)))
        rows = table.filter(chosen).select(known).to_pylist()
        return {
            row.pop("image"): PlacedAnswer(**{name: value for name, value in row.items() if value is not None})
            for row in rows
        }

    def examples(self) -> Examples:
        """The images and patches kept for galleries."""
        return Examples(self.directory / EXAMPLES)

    def _later(self, *names: str) -> list[str]:
        """Those columns that the file has: runs of before lack some."""
        return [name for name in names if name in self._file.schema_arrow.names]

    def _table(self, key: str, columns: list[str]) -> pa.Table:
        if key not in self._segments:
            raise ArtifactError(f"{self.directory / OUTCOMES}: expected outcomes of cell {key}, found none")
        segments = self._segments[key]
        expect_modest(self.directory / OUTCOMES, self._file, list(dict.fromkeys(part.group for part in segments)))
        with damage(self.directory / OUTCOMES):
            return pa.concat_tables(
                [self._group(segment.group, columns).slice(segment.start, segment.length) for segment in segments]
            )

    def _group(self, group: int, columns: list[str]) -> pa.Table:
        wanted = group, tuple(columns)
        if wanted not in self._read:
            self._read[wanted] = self._file.read_row_group(group, columns=columns)
            if len(self._read) > _READ:
                self._read.popitem(last=False)
        self._read.move_to_end(wanted)
        return self._read[wanted]

    def _check(self, cell: CellRecord, outcomes: Outcomes, ids: tuple[str, ...]) -> None:
        where = f"{self.directory}: cell {cell.cell}"
        counts = outcomes.counts()
        assert_identities(cell.cell, int(outcomes.correct.sum()), counts)
        recorded = (cell.n_images, cell.n_clean_correct, cell.counts)
        if recorded != (len(outcomes.labels), int(outcomes.correct.sum()), counts):
            raise ArtifactError(f"{where}: its counts are not those of its outcomes")
        known, labels = self._reference.setdefault(cell.dataset, (ids, outcomes.labels))
        if known != ids or not np.array_equal(labels, outcomes.labels):
            raise ArtifactError(f"{where}: expected the images and labels of the other cells of {cell.dataset}")


def _manifest(path: Path) -> Mapping[str, Any]:
    expect_present(path)
    return read_manifest(path)


def read_cells(path: Path) -> tuple[CellRecord, ...]:
    """The records of cells.parquet, in its order.

    Raises:
        ArtifactError: it is missing, or a row is no record.
    """
    expect_present(path)
    cells = []
    for number, row in enumerate(read_rows(path)):
        if row.get("schema_version") != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}, row {number}: expected schema version {SCHEMA_VERSION}, found {row.get('schema_version')}"
            )
        plain = {name: value for name, value in row.items() if name not in _COUNTED}
        try:
            # Runs from before score-based attacks have no queries.
            plain |= {name: json.loads(row.get(name, "[]")) for name in ("counts", "queries", "checks")}
            cells.append(CellRecord.model_validate(plain))
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(f"{path}, row {number}: not a cell record: {error}") from None
    return tuple(cells)


def _expect_outcomes(path: Path, file: pq.ParquetFile) -> None:
    """Check names and types of the columns, so that a text nowhere stands for a number.

    Raises:
        ArtifactError: one is missing or of another type.
    """
    found = {field.name: field.type for field in file.schema_arrow}
    for name in (*_TEXTS, *_NUMBERS):
        if name not in found:
            raise ArtifactError(f"{path}: expected a column {name}, found {', '.join(found)}")
        if pa.types.is_dictionary(found[name]) != (name in _TEXTS):
            wanted = "text" if name in _TEXTS else "numbers"
            raise ArtifactError(f"{path}: expected {wanted} in the column {name}, found {found[name]}")
    if not pa.types.is_boolean(found.get("attacked", pa.bool_())):
        raise ArtifactError(f"{path}: expected true or false in the column attacked, found {found['attacked']}")


class _Segment(NamedTuple):
    """Neighbouring rows of one cell: those from `start` on of a row group."""

    group: int
    start: int
    length: int


def _segments_by_cell(path: Path, file: pq.ParquetFile) -> dict[str, list[_Segment]]:
    """Where the rows of every cell are."""
    found: dict[str, list[_Segment]] = defaultdict(list)
    place = file.schema_arrow.get_field_index("cell")
    for group in range(file.metadata.num_row_groups):
        part = file.metadata.row_group(group)
        known = part.column(place).statistics
        if known is not None and known.has_min_max and known.min == known.max:
            found[known.min].append(_Segment(group, 0, part.num_rows))
            continue
        expect_modest(path, file, [group])
        codes, names = _codes(file.read_row_group(group, columns=["cell"])["cell"])
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
            found[names[codes[start]]].append(_Segment(group, int(start), int(end - start)))
    return dict(found)


def _arranged(cell: CellRecord, table: pa.Table) -> tuple[Outcomes, tuple[str, ...], dict[str, Array]]:
    """Rows as arrays [goal, image], goals in the record's order, images in that of their ids; and other columns."""
    goals = tuple(count.goal for count in cell.counts)
    goal, goal_names = _codes(table["goal"])
    image, image_names = _codes(table["image"])
    ids = tuple(sorted(image_names))
    odd = next((name for name in ids if not is_printable(name)), None)
    if odd is not None:
        raise ArtifactError(f"cell {cell.cell}: expected printable names of images, found {ascii(odd)}")
    rank = {name: number for number, name in enumerate(ids)}
    image = np.array([rank[name] for name in image_names], np.int64)[image]
    wanted = {name: number for number, name in enumerate(goals)}
    if set(goal_names) != set(goals) or len(goal) != len(goals) * len(ids):
        raise ArtifactError(
            f"cell {cell.cell}: expected {len(goals)} goals x {len(ids)} images, found {len(goal)} rows of "
            f"{len(goal_names)} goals"
        )
    order = np.empty(len(goal), np.int64)
    order[:] = -1
    order[np.array([wanted[name] for name in goal_names], np.int64)[goal] * len(ids) + image] = np.arange(len(goal))
    if (order < 0).any():
        raise ArtifactError(f"cell {cell.cell}: an image occurs twice under one goal, and another not at all")
    label, clean, patched = (
        table[name].to_numpy()[order].reshape(len(goals), len(ids))
        for name in ("label", "clean_prediction", "patched_prediction")
    )
    if (label != label[0]).any() or (clean != clean[0]).any():
        raise ArtifactError(f"cell {cell.cell}: labels or clean predictions differ between goals")
    others = {
        name: table[name].to_numpy()[order].reshape(len(goals), len(ids))
        for name in ("row", "column", "queries")
        if name in table.column_names
    }
    attacked = None
    if "attacked" in table.column_names and not table["attacked"].null_count:
        attacked = table["attacked"].to_numpy()[order].reshape(len(goals), len(ids)).astype(bool)
    return Outcomes(label[0], clean[0], patched, goals, attacked), ids, others


def _codes(column: pa.ChunkedArray) -> tuple[Array, list[str]]:
    """Codes (rows,) int64 and the names they stand for, used ones only."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    codes, names = array.indices.to_numpy(zero_copy_only=False), array.dictionary.to_pylist()
    used, compact = np.unique(codes, return_inverse=True)
    return compact, [str(names[code]) for code in used]
