"""Counts, rates and intervals of one leaderboard row, as fractions; percentages are made for display."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qpatchbench.errors import ArtifactError
from qpatchbench.evaluation.checks.paired import beats_control, gradients_hold_up, own_patch_holds_up
from qpatchbench.report.leaderboard.counterparts import Comparisons, is_white_box
from qpatchbench.report.leaderboard.target_classes import collapse, extremes_of_targets
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.statistics.intervals import (
    Array,
    Interval,
    percentile_interval,
    rates,
    resampled_totals,
    wilson,
)

CONTROL, GREY = "random", "grey"
_COUNTED = {"fooled", "eligible", "robust", "all"}  # a record holds them already
NOTHING = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class RowRates:
    """Numbers of one row.

    Attributes:
        counts: integers by name, summed over seeds and goals; n_images is per seed.
        rates: fractions by name, NaN where undefined.
        replicates: (R,) bootstrap replicates of asr, for paired comparisons; empty where nothing was measured.
        fooled, eligible: by seed, (goals, images) boolean, for rates over several rows.
        control: V2.
        masking: V13, where a score-based attack was run on this very network.
        inversion: V4, where patches of the same attack were transferred to this network.
    """

    counts: dict[str, int]
    rates: dict[str, float]
    replicates: Array = field(default_factory=lambda: np.empty(0))
    fooled: dict[int, Array] = field(default_factory=dict)
    eligible: dict[int, Array] = field(default_factory=dict)
    masking: Check | None = None
    inversion: Check | None = None
    control: Check = Check(id="V2", verdict="not-run", message="nothing was measured")  # noqa: RUF009 (frozen)


def measure(cells: Sequence[CellRecord], comparisons: Comparisons) -> RowRates:
    """Measure the finished cells of one row, which differ in their seed only.

    Raises:
        ArtifactError: the cells do not share goals and images.
    """
    outcomes = [comparisons.run.outcomes(cell) for cell in cells]
    if len({(each.goals, each.patched.shape) for each in outcomes}) != 1:
        raise ArtifactError(f"cells {', '.join(cell.cell for cell in cells)}: expected the same goals and images")
    fooled = np.stack([each.fooled for each in outcomes])
    eligible = np.stack([each.eligible for each in outcomes])
    robust = np.stack([each.robust for each in outcomes])
    kinds = {"fooled": fooled, "eligible": eligible, "robust": robust}
    common = _common(cells, outcomes, comparisons)
    if common is not None:
        kinds |= {"common_fooled": fooled & common, "common": eligible & common}
    control = _controlled(cells, CONTROL, eligible, comparisons)
    grey = _controlled(cells, GREY, eligible, comparisons)
    if control is not None:
        kinds["control_fooled"] = control
    if grey is not None:
        kinds["grey_fooled"] = grey
    totals = {**{name: int(values.sum()) for name, values in kinds.items()}, "all": robust.size}
    drawn = _drawn(kinds)
    single = fooled.shape[:2] == (1, 1)
    found = {"asr_targeted": _targeted(cells, outcomes), **_clean(outcomes)}
    found |= _rate("robust_accuracy", "robust", "all", totals, drawn, single)
    found |= _rate("asr", "fooled", "eligible", totals, drawn, single)
    found |= _rate("asr_common", "common_fooled", "common", totals, drawn, single)
    found |= _rate("asr_control", "control_fooled", "eligible", totals, drawn, single)
    found |= _rate("asr_grey", "grey_fooled", "eligible", totals, drawn, single)
    found |= _net(found, drawn)
    found |= {**extremes_of_targets(outcomes), **collapse(outcomes)}
    found["transfer_ratio"] = _transfer_ratio(cells, outcomes, comparisons)
    # A patch that was moved after it was crafted is judged like one that was transferred.
    own = all(is_white_box(cell) and not cell.transformation for cell in cells)
    return RowRates(
        counts=_counts(cells, totals),
        rates=found,
        replicates=rates(drawn["fooled"], drawn["eligible"]),
        fooled={cell.seed: each.fooled for cell, each in zip(cells, outcomes, strict=True)},
        eligible={cell.seed: each.eligible for cell, each in zip(cells, outcomes, strict=True)},
        masking=None if _unchecked(comparisons) else _masking(cells, eligible, comparisons),
        inversion=None if _unchecked(comparisons) else _inversion(cells, fooled, eligible, comparisons),
        control=(
            Check(id="V2", verdict="not-run", message="evaluation.checks is off")
            if _unchecked(comparisons)
            else beats_control(fooled, control, eligible, white_box=own)
        ),
    )


def _unchecked(comparisons: Comparisons) -> bool:
    """Whether the suite, or `--checks`, asked for no checks."""
    return bool(comparisons.run.manifest.get("resolved", {}).get("evaluation", {}).get("checks") == "off")


def _masking(cells: Sequence[CellRecord], eligible: Array, comparisons: Comparisons) -> Check | None:
    if not all(is_white_box(cell) for cell in cells):
        return None
    rivals = [comparisons.rivals(cell) for cell in cells]
    if not all(scores for _, scores in rivals):
        return None
    with_gradients = [_any_of(gradient, comparisons) for gradient, _ in rivals]
    known = [fooled for fooled in with_gradients if fooled is not None]
    scores = [_any_of(scores, comparisons) for _, scores in rivals]
    return gradients_hold_up(
        np.stack(known) if len(known) == len(cells) else None,
        np.stack([fooled for fooled in scores if fooled is not None]),
        eligible,
    )


def _inversion(cells: Sequence[CellRecord], fooled: Array, eligible: Array, comparisons: Comparisons) -> Check | None:
    if not all(is_white_box(cell) for cell in cells):
        return None
    by_source: dict[str, list[Array]] = defaultdict(list)
    for cell in cells:
        for other in comparisons.foreign(cell):
            name = f"{other.source_model} {other.source_defense} {other.source_quantization}@{other.source_bits}"
            by_source[name].append(comparisons.run.outcomes(other).fooled)
    foreign = [(name, np.stack(found)) for name, found in by_source.items() if len(found) == len(cells)]
    return own_patch_holds_up(fooled, foreign, eligible) if foreign else None


def _any_of(cells: Sequence[CellRecord], comparisons: Comparisons) -> Array | None:
    """(goals, images) boolean, fooled by any of the cells; None without cells."""
    found = [comparisons.run.outcomes(cell).fooled for cell in cells]
    return np.logical_or.reduce(found) if found else None


def ratio(successes: int, trials: int) -> float:
    """One count over another; NaN without trials."""
    return successes / trials if trials else math.nan


def _counts(cells: Sequence[CellRecord], totals: dict[str, int]) -> dict[str, int]:
    counted = {name: sum(cell.totals()[name] for cell in cells) for name in cells[0].totals()}
    others = {f"n_{name}": count for name, count in totals.items() if name not in _COUNTED}
    clean = sum(cell.n_clean_correct for cell in cells)
    return {"n_images": cells[0].n_images, "n_clean_correct": clean, **counted, **others}


def _targeted(cells: Sequence[CellRecord], outcomes: Sequence[Outcomes]) -> float:
    totals = [cell.totals() for cell in cells]
    targeted = any(goal != "untargeted" for each in outcomes for goal in each.goals)
    hits, eligible = sum(total["n_hit"] for total in totals), sum(total["n_eligible"] for total in totals)
    return ratio(hits, eligible) if targeted else math.nan


def _clean(outcomes: Sequence[Outcomes]) -> dict[str, float]:
    """Without a patch there are no goals: seeds and images only."""
    correct = np.stack([each.correct[None] for each in outcomes])
    totals, single = {"correct": int(correct.sum()), "all": correct.size}, len(outcomes) == 1
    return _rate("clean_accuracy", "correct", "all", totals, {} if single else _drawn({"correct": correct}), single)


def _drawn(kinds: dict[str, Array]) -> dict[str, Array]:
    """(R,) bootstrap totals of each kind, (seeds, goals, images) boolean; `all`, everything, is the same in each."""
    values = np.stack([*kinds.values()])
    totals = resampled_totals(values)
    return {**dict(zip(kinds, totals.T, strict=True)), "all": np.full(len(totals), float(values[0].size))}


def _rate(
    name: str, success: str, trials: str, totals: dict[str, int], drawn: dict[str, Array], single: bool
) -> dict[str, float]:
    """A rate with its interval: Wilson for one seed and one goal, the cluster bootstrap otherwise."""
    if success not in totals:
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    if single:
        interval = wilson(totals[success], totals[trials])
    else:
        interval = percentile_interval(rates(drawn[success], drawn[trials]))
    return {
        name: ratio(totals[success], totals[trials]),
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def _net(found: dict[str, float], drawn: dict[str, Array]) -> dict[str, float]:
    interval = NOTHING
    if "control_fooled" in drawn:
        interval = percentile_interval(rates(drawn["fooled"] - drawn["control_fooled"], drawn["eligible"]))
    net = found["asr"] - found["asr_control"]
    return {"asr_net": net, "asr_net_low": interval.low, "asr_net_high": interval.high}


def _common(cells: Sequence[CellRecord], outcomes: Sequence[Outcomes], comparisons: Comparisons) -> Array | None:
    """(seeds, 1, images) boolean; None if a network collapsed."""
    masks = [comparisons.common(cell) for cell in cells]
    known = [mask for mask in masks if mask is not None]
    return np.stack(known)[:, None, :] if len(known) == len(outcomes) else None


def _controlled(cells: Sequence[CellRecord], attack: str, eligible: Array, comparisons: Comparisons) -> Array | None:
    """Fooled by the control, on the row's own eligible images; None unless every seed has its control."""
    controls = [comparisons.control(cell, attack) for cell in cells]
    known = [control for control in controls if control is not None]
    if len(known) != len(cells):
        return None
    return np.stack([comparisons.run.outcomes(control).wrong for control in known]) & eligible


def _transfer_ratio(cells: Sequence[CellRecord], outcomes: Sequence[Outcomes], comparisons: Comparisons) -> float:
    """asr_common(target) / asr_common(source) of the same patches, on the images common to both comparisons."""
    at_target, at_source = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for cell, target in zip(cells, outcomes, strict=True):
        own = comparisons.own(cell)
        if own is None:
            return math.nan
        here, there = comparisons.common(cell), comparisons.common(own)
        if here is None or there is None:
            return math.nan
        source = comparisons.run.outcomes(own)
        both = here & there
        at_target += [(target.fooled & both).sum(), (target.eligible & both).sum()]
        at_source += [(source.fooled & both).sum(), (source.eligible & both).sum()]
    reached = ratio(int(at_source[0]), int(at_source[1]))
    return ratio(int(at_target[0]), int(at_target[1])) / reached if reached > 0 else math.nan
