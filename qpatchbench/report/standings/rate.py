"""A rate of the standings: percent with its interval and counts, and the images behind it where they are at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qpatchbench.statistics.estimates import Estimate, compare
from qpatchbench.statistics.intervals import Array, bootstrap_rates, mcnemar_exact, percentile_interval, wilson
from qpatchbench.statistics.paired_rates import error_of_interval, normal_p_value


@dataclass(frozen=True)
class RateImages:
    """Outcomes of single images.

    Attributes:
        success: (seeds, goals, images) boolean.
        trials: the same shape; the images that count.
        identity: names of images, goals and places; rates whose identities agree can be compared in pairs.
    """

    success: Array
    trials: Array
    identity: tuple[object, ...]

    @property
    def is_single(self) -> bool:
        """Whether there is one seed and one goal, so that images are independent."""
        return bool(self.success.shape[:2] == (1, 1))

    @cached_property
    def replicates(self) -> Array:
        """(R,) bootstrap replicates of the rate."""
        return bootstrap_rates(self.success, self.trials)


@dataclass(frozen=True)
class ThreatRate:
    """One cell of the standings, in percent.

    Attributes:
        value, low, high: the rate and its 95 % interval; NaN where there is none.
        successes, trials: counts, summed over seeds and goals.
        images: what the rate was counted on; None where only the log was published.
        attack, size, source: of the patch that decides; empty for rates of no single patch.
        place: number of its row in its experiment, from 1; 0 where there is no single row.
        checks: the row's, for example `fail V2; warn V1`.
        at_least: whether the number is a lower bound.
        rank: among the same dataset, model, bits and images; 0 for none.
        paired: whether all tests behind the rank were paired.
    """

    value: float
    low: float
    high: float
    successes: int = 0
    trials: int = 0
    images: RateImages | None = None
    attack: str = ""
    size: str = ""
    source: str = ""
    place: int = 0
    checks: str = ""
    at_least: bool = False
    rank: int = 0
    paired: bool = False

    @property
    def failed(self) -> bool:
        """Whether a check of the deciding row failed."""
        return "fail" in self.checks


def counted(images: RateImages) -> ThreatRate:
    """A rate from its images: Wilson's interval for one seed and goal, the cluster bootstrap otherwise."""
    successes, trials = int((images.success & images.trials).sum()), int(images.trials.sum())
    if not trials:
        return ThreatRate(math.nan, math.nan, math.nan, images=images)
    low, high = wilson(successes, trials) if images.is_single else percentile_interval(images.replicates)
    return ThreatRate(100 * successes / trials, 100 * low, 100 * high, successes, trials, images)


def pooled(parts: Sequence[ThreatRate]) -> ThreatRate:
    """The rate over the seeds of several runs of one experiment; facts of the patch are those of the first.

    From the images where all runs have them; otherwise from counts, with the runs' intervals combined as if they were
    independent.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    known = [part.images for part in parts if part.images is not None]
    checks = "; ".join(dict.fromkeys(part.checks for part in parts if part.checks not in ("", "ok")))
    checks = checks or first.checks
    if len(known) == len(parts) and len({each.identity for each in known}) == 1:
        success, trials = (np.concatenate([getattr(each, name) for each in known]) for name in ("success", "trials"))
        whole = counted(RateImages(success, trials, known[0].identity))
        return replace(
            first, value=whole.value, low=whole.low, high=whole.high, successes=whole.successes, trials=whole.trials,
            images=whole.images, checks=checks,
        )  # fmt: skip
    weights = np.array([part.trials or 1 for part in parts], float)
    weights /= weights.sum()
    value = float(weights @ [part.value for part in parts])
    below = math.hypot(*(weights * [part.value - part.low for part in parts]))
    above = math.hypot(*(weights * [part.high - part.value for part in parts]))
    return replace(
        first, value=value, low=max(0.0, value - below), high=min(100.0, value + above), images=None, checks=checks,
        successes=sum(part.successes for part in parts), trials=sum(part.trials for part in parts),
        at_least=any(part.at_least for part in parts),
    )  # fmt: skip


def p_of_difference(first: ThreatRate, second: ThreatRate) -> tuple[float, bool]:
    """Two-sided p that two rates do not differ, and whether it is paired.

    On the same images: the exact McNemar test for one seed and goal, otherwise a normal difference with the bootstrap's
    standard error. Else from the two intervals, as if they were independent, which is the wider of the two.
    """
    ours, theirs = first.images, second.images
    if ours is not None and theirs is not None and ours.identity == theirs.identity:
        if ours.is_single and theirs.is_single:
            both = ours.trials & theirs.trials
            only_first = int((both & ours.success & ~theirs.success).sum())
            only_second = int((both & theirs.success & ~ours.success).sum())
            return mcnemar_exact(only_first, only_second), True
        value = (second.value - first.value) / 100
        return normal_p_value(value, float(np.nanstd(theirs.replicates - ours.replicates))), True
    here, there = (Estimate(each.value, each.low, each.high) for each in (first, second))
    apart = compare(there, here, "difference")
    return normal_p_value(apart.value, error_of_interval(apart.low, apart.high)), False
