"""Experiments: runs and entries of one suite that differ in their seeds alone, read together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qpatchbench.errors import ArtifactError
from qpatchbench.report.leaderboard.published import RunFolder, read_folder
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.leaderboard.row_outcomes import RowOutcomes
from qpatchbench.report.standings.rate import RateImages, ThreatRate, pooled
from qpatchbench.runs.layout import MANIFEST
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import wilson

# Of a resolved suite, what says nothing of the numbers of one seed.
_BESIDE = ("seeds", "description")
# Quantity -> its successes and trials among the counts of a row; no trials: all images.
_COUNTS = {
    "asr": ("n_fooled", "n_eligible"),
    "asr_control": ("n_control_fooled", "n_eligible"),
    "asr_worst": ("n_worst_fooled", "n_eligible"),
    "clean_accuracy": ("n_clean_correct", ""),
    "certified_accuracy": ("n_certified", ""),
}


class MemberRow:
    """A row of one run, and the outcomes behind it.

    Attributes:
        row: as the log states it.
        place: its number among the rows of its experiment, from 1; of a single run, its line in the log.
        line: its number in the log of its own run, from 1.
    """

    def __init__(self, row: Row, place: int, line: int, side: RowOutcomes) -> None:
        self.row, self.place, self.line, self._side = row, place, line, side

    @property
    def folder(self) -> str:
        """That of its run, as it was given."""
        return self._side.folder.name

    @property
    def is_whole(self) -> bool:
        """Whether the outcomes of single images are at hand, not the log alone."""
        return self._side.run is not None and bool(self._side.cells(self.row))

    def stored(self) -> list[StoredOutcomes]:
        """Outcomes of its cells, one per seed, read anew: those of all rows may not fit into memory."""
        return self._side.stored(self.row)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of those cells."""
        return tuple(cell.seed for cell in self._side.cells(self.row))

    def rate(self, quantity: str, *, with_images: bool = True) -> ThreatRate:
        """A rate of the row with its interval as the log states it, and its images unless they are not wanted."""
        row, (successes, trials) = self.row, _COUNTS[quantity]
        counts = row.count(successes), row.count(trials) if trials else row.count("n_images") * row.count("seeds")
        low, high = row.interval(quantity)
        if np.isnan(low) and counts[1]:
            low, high = (100 * bound for bound in wilson(*counts))
        return ThreatRate(
            row.number(quantity), low, high, *counts, self.images(quantity) if with_images else None, checks=row.checks
        )

    def images(self, quantity: str) -> RateImages | None:
        """Outcomes of single images, of `asr` and `clean_accuracy`."""
        if not self.is_whole or quantity not in ("asr", "clean_accuracy"):
            return None
        stored = self.stored()
        first = stored[0]
        labels = first.outcomes.labels.tobytes()
        if quantity == "clean_accuracy":
            correct = np.stack([each.outcomes.correct[None] for each in stored])
            return RateImages(correct, np.ones_like(correct), (first.ids, labels))
        chosen = any(cell.places == "chosen" for cell in self._side.cells(self.row))
        places = None if chosen else (first.rows.tobytes(), first.columns.tobytes())
        return RateImages(
            np.stack([each.outcomes.fooled for each in stored]),
            np.stack([each.outcomes.eligible for each in stored]),
            (first.ids, labels, first.outcomes.goals, places),
        )


@dataclass(frozen=True)
class Experiment:
    """Runs whose seeds are pooled.

    Attributes:
        runs: the folders, as they were given.
        images: fingerprint of the evaluation images; empty where the manifest has none.
        partial: whether a run was cut by --limit.
        rows: what every row of any of the runs is in each of them, in the order of the logs.
    """

    runs: tuple[str, ...]
    images: str
    partial: bool
    rows: tuple[tuple[MemberRow, ...], ...]

    @property
    def name(self) -> str:
        """The folders' own names."""
        return " + ".join(Path(run).resolve().name for run in self.runs)


def rate_of(members: Sequence[MemberRow], quantity: str, *, with_images: bool = True) -> ThreatRate:
    """A rate of a row over all runs, with the patch behind it."""
    row = members[0].row
    found = pooled([member.rate(quantity, with_images=with_images) for member in members])
    return replace(found, attack=row.attack, size=row.size, source=row.source_text, place=members[0].place)


def read_experiments(runs: Sequence[Path], entries: Path | None = None) -> tuple[Experiment, ...]:
    """Read run folders, and every entry of a folder of entries.

    Raises:
        ArtifactError: a folder holds no run, `entries` holds no entry, or there is nothing at all.
    """
    folders = [read_folder(run) for run in (*runs, *_entries(entries))]
    if not folders:
        raise ArtifactError("expected run folders or a folder of entries, found none")
    groups: dict[str, list[list[RunFolder]]] = defaultdict(list)
    for folder in folders:
        known = groups[_experiment_of(folder)]
        # The same seeds again are the same experiment done twice: rows of their own, not more seeds.
        group = next((each for each in known if _seeds(folder).isdisjoint(*map(_seeds, each))), None)
        known.append([folder]) if group is None else group.append(folder)
    return tuple(_experiment(group) for known in groups.values() for group in known)


def one_experiment(folder: RunFolder, run: Run) -> Experiment:
    """A run that is read already, by itself."""
    return _experiment([folder], run)


def _entries(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: expected a folder of entries, found no folder")
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise ArtifactError(f"{folder}: expected folders with a {MANIFEST}, found none")
    yield from found


def _experiment_of(folder: RunFolder) -> str:
    suite = {name: value for name, value in folder.suite.items() if name not in _BESIDE}
    return json.dumps([suite or folder.name, folder.dataset, _fingerprint(folder.manifest)], sort_keys=True)


def _seeds(folder: RunFolder) -> set[int]:
    return set(folder.manifest.get("seeds") or [0])


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("dataset_fingerprint") or {}).get("evaluation", ""))


def _experiment(folders: Sequence[RunFolder], run: Run | None = None) -> Experiment:
    rows: dict[tuple[str | int, ...], list[MemberRow]] = defaultdict(list)
    for folder in folders:
        side = RowOutcomes(folder, run)
        for line, row in enumerate(folder.rows, 1):
            place = rows[row.key][0].place if row.key in rows else len(rows) + 1
            rows[row.key].append(MemberRow(row, place, line, side))
    return Experiment(
        tuple(folder.name for folder in folders),
        _fingerprint(folders[0].manifest),
        any(bool(folder.manifest.get("partial")) or any(row.partial for row in folder.rows) for folder in folders),
        tuple(tuple(members) for members in rows.values()),
    )
