"""Two runs, or two defenses of one, row by row: what differs in ASR and in clean accuracy.

Paired where both sides kept outcomes of the same images.

Unpaired rows are compared by their own intervals, combined as if the runs were independent (statistics.estimates).
All tests of a comparison are one family, corrected by Holm's method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from qpatchbench.errors import UnknownNameError
from qpatchbench.report.compare.manifests import Differing, manifest_differences
from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.leaderboard.row_outcomes import RowOutcomes
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.statistics.estimates import Estimate, Quantity, compare
from qpatchbench.statistics.holm import holm
from qpatchbench.statistics.intervals import Array
from qpatchbench.statistics.paired_rates import RateDifference, error_of_interval, normal_p_value, paired_rates

Key: TypeAlias = tuple[str | int, ...]

LEVEL = 0.05
NETWORK_KEY = ("dataset", "model", "defense", "preprocessor", "quantization", "target_bits")


@dataclass(frozen=True)
class RunDifference:
    """One quantity of one row (or network) in both runs.

    Attributes:
        quantity: asr, or clean_accuracy of a network.
        row: the row of run A; of a network, the first of its rows.
        a, b: the quantity in percent.
        change: b - a as fractions, with interval and p.
        adjusted: p after Holm's correction over all tests of the comparison.
        unpaired: why the images could not be paired; empty where they were.
        seeds: of both runs, where they are not the same.
        checks: of both rows.
    """

    quantity: Quantity
    row: Row
    a: float
    b: float
    change: RateDifference
    adjusted: float = float("nan")
    unpaired: str = ""
    seeds: str = ""
    checks: tuple[str, str] = ("", "")

    @property
    def higher(self) -> str:
        """Which run is higher, beyond what chance explains."""
        if not self.adjusted < LEVEL:
            return ""
        return "B higher" if self.change.value > 0 else "A higher"


@dataclass(frozen=True)
class RunComparison:
    """Everything that two runs differ in.

    Attributes:
        names: the folders, or the defenses.
        within: the folder of both defenses; empty where two runs are compared.
        fields: of the manifests.
        only: rows of A that B lacks, and the other way round.
        unmeasured: rows of both that at least one of them failed to measure.
        compared: networks first, then rows, in the order of run A.
    """

    names: tuple[str, str]
    fields: tuple[Differing, ...]
    only: tuple[tuple[Row, ...], tuple[Row, ...]]
    unmeasured: tuple[Row, ...]
    compared: tuple[RunDifference, ...]
    within: str = ""


def compare_runs(a: RunFolder, b: RunFolder) -> RunComparison:
    """Match rows by what identifies them (ROW_KEY: everything but the seed) and compare."""
    sides = RowOutcomes(a), RowOutcomes(b)
    ours, theirs = ({row.key: row for row in side.folder.rows} for side in sides)
    return replace(
        _matched(ours, theirs, sides), names=(a.name, b.name), fields=manifest_differences(a.manifest, b.manifest)
    )


def compare_defenses(folder: RunFolder, a: str, b: str) -> RunComparison:
    """Compare two defenses of one run: rows that agree in everything but it, patches of their own networks included.

    Args:
        folder: the run.
        a: a defense with what stands before it, `pbat` or `pbat + jedi`.
        b: another one.

    Raises:
        UnknownNameError: the run has no such defense.
    """
    side = RowOutcomes(folder)
    known = {row.defended for row in folder.rows}
    for name in (a, b):
        if name not in known:
            raise UnknownNameError("defense", name, known)
    ours, theirs = ({_apart_from_defense(row): row for row in folder.rows if row.defended == name} for name in (a, b))
    return replace(_matched(ours, theirs, (side, side)), names=(a, b), within=folder.name)


def _apart_from_defense(row: Row) -> Key:
    """What identifies a row but its defense; a patch of its own networks is one of "its own" networks."""
    own_defense = row.source_defense == row.defense
    own_preprocessor = row.source_preprocessor == row.preprocessor
    told = {
        "defense": "",
        "preprocessor": "",
        "source_defense": "own" if own_defense else row.source_defense,
        "source_preprocessor": "own" if own_preprocessor else row.source_preprocessor,
    }
    return tuple(told.get(name, getattr(row, name)) for name in ROW_KEY)


def _matched(
    ours: Mapping[Key, Row], theirs: Mapping[Key, Row], sides: tuple[RowOutcomes, RowOutcomes]
) -> RunComparison:
    both = [key for key in ours if key in theirs]
    found: list[RunDifference] = []
    unmeasured = []
    networks: dict[tuple[str, ...], Key] = {}
    for key in both:
        if not (ours[key].measured("asr") and theirs[key].measured("asr")):
            unmeasured.append(ours[key])
            continue
        networks.setdefault(tuple(getattr(ours[key], name) for name in NETWORK_KEY), key)
        found.append(_compared("asr", ours[key], theirs[key], sides))
    clean = [_compared("clean_accuracy", ours[key], theirs[key], sides) for key in networks.values()]
    adjusted = holm([each.change.p_value for each in (*clean, *found)])
    return RunComparison(
        ("", ""),
        (),
        (
            tuple(row for key, row in ours.items() if key not in theirs),
            tuple(row for key, row in theirs.items() if key not in ours),
        ),
        tuple(unmeasured),
        tuple(replace(each, adjusted=p) for each, p in zip((*clean, *found), adjusted, strict=True)),
    )


def _compared(quantity: Quantity, a: Row, b: Row, sides: tuple[RowOutcomes, RowOutcomes]) -> RunDifference:
    seeds = [" ".join(str(cell.seed) for cell in side.cells(row)) for side, row in zip(sides, (a, b), strict=True)]
    found = _paired(quantity, (a, b), sides)
    change = _apart(quantity, a, b) if isinstance(found, str) else found
    return RunDifference(
        quantity,
        a,
        a.number(quantity),
        b.number(quantity),
        change,
        unpaired=found if isinstance(found, str) else "",
        seeds=f"{seeds[0] or 'unknown'} / {seeds[1] or 'unknown'}" if seeds[0] != seeds[1] else "",
        checks=(a.checks, b.checks),
    )


def _paired(quantity: Quantity, rows: tuple[Row, Row], sides: tuple[RowOutcomes, RowOutcomes]) -> RateDifference | str:
    """The difference on the same images; or why there is none."""
    each = tuple(zip(sides, rows, strict=True))
    lacking = [side.folder.name for side, row in each if side.run is None or not side.cells(row)]
    if lacking:
        return f"no outcomes of single images in {' and '.join(dict.fromkeys(lacking))}"
    ours, theirs = (side.stored(row) for side, row in each)
    reason = _unlike(ours, theirs, quantity, chosen=any(side.cells(row)[0].places == "chosen" for side, row in each))
    if reason:
        return reason
    return paired_rates(*_counted(quantity, ours), *_counted(quantity, theirs))


def _unlike(
    ours: Sequence[StoredOutcomes], theirs: Sequence[StoredOutcomes], quantity: Quantity, *, chosen: bool
) -> str:
    """Why the images of two rows cannot be paired; empty where they can. Places an attack chose need not agree."""
    every = [*ours, *theirs]
    if any(each.ids != every[0].ids for each in every):
        return f"other images ({len(ours[0].ids)} and {len(theirs[0].ids)})"
    if any(not np.array_equal(each.outcomes.labels, every[0].outcomes.labels) for each in every):
        return "other labels of the same images"
    if quantity == "clean_accuracy":
        return ""
    if any(each.outcomes.goals != every[0].outcomes.goals for each in every):
        return "other goals"
    if not chosen and any(
        not (np.array_equal(each.rows, every[0].rows) and np.array_equal(each.columns, every[0].columns))
        for each in every
    ):
        return "other places on the images"
    return ""


def _counted(quantity: Quantity, stored: Sequence[StoredOutcomes]) -> Iterator[Array]:
    """Successes and trials, (seeds, goals, images) boolean each."""
    if quantity == "clean_accuracy":
        correct = np.stack([each.outcomes.correct[None] for each in stored])
        yield from (correct, np.ones_like(correct))
        return
    yield np.stack([each.outcomes.fooled for each in stored])
    yield np.stack([each.outcomes.eligible for each in stored])


def _apart(quantity: Quantity, a: Row, b: Row) -> RateDifference:
    """The difference from the rows' own intervals."""
    found = compare(_alone(quantity, b), _alone(quantity, a), "difference")
    value, low, high = (number / 100 for number in (found.value, found.low, found.high))
    return RateDifference(value, low, high, normal_p_value(value, error_of_interval(low, high)))


def _alone(quantity: Quantity, row: Row) -> Estimate:
    return Estimate(row.number(quantity), *row.interval(quantity))
