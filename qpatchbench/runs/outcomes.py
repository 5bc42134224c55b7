"""Predictions of one cell, and the sets of images that rates are counted from.

Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from qpatchbench.runs.records import GoalCounts
from qpatchbench.statistics.intervals import Array

NO_TARGET = -1


@dataclass(frozen=True)
class Outcomes:
    """Predictions of one cell on N images under G goals.

    Attributes:
        labels, clean: (N,) int32, the label and the prediction without a patch.
        patched: (G, N) int32, the prediction with the goal's patch.
        goals: one per row of `patched`; class id or "untargeted".
        attacked: (G, N) boolean, the images that the attack did not leave alone; None: all.
    """

    labels: Array
    clean: Array
    patched: Array
    goals: tuple[str, ...]
    attacked: Array | None = None

    @cached_property
    def correct(self) -> Array:
        """C: classified correctly without a patch; (N,) boolean."""
        return np.asarray(self.clean == self.labels)

    @cached_property
    def targets(self) -> Array:
        """Target class of every goal, -1 where there is none; (G, 1) int64."""
        return np.array([[target_of(goal)] for goal in self.goals])

    @cached_property
    def candidates(self) -> Array:
        """In C and not of the target class; (G, N) boolean."""
        return np.asarray(self.correct & (self.labels != self.targets))

    @cached_property
    def eligible(self) -> Array:
        """Candidates that were attacked, the denominator of asr; (G, N) boolean."""
        return self.candidates if self.attacked is None else self.candidates & self.attacked

    @cached_property
    def wrong(self) -> Array:
        """The patched prediction is not the label; (G, N) boolean, over all images."""
        return np.asarray(self.patched != self.labels)

    @cached_property
    def fooled(self) -> Array:
        """Eligible and wrong under the patch, the numerator of asr; (G, N) boolean."""
        return self.eligible & self.wrong

    @cached_property
    def hit(self) -> Array:
        """Eligible and classified as the target, the numerator of asr_targeted; (G, N) boolean."""
        return np.asarray(self.eligible & (self.patched == self.targets))

    @cached_property
    def robust(self) -> Array:
        """Right without and with the patch, whatever the label; (G, N) boolean."""
        return self.correct & ~self.wrong

    def counts(self) -> tuple[GoalCounts, ...]:
        """What a record holds of these outcomes."""
        columns = zip(
            self.goals,
            self.eligible.sum(axis=1),
            self.fooled.sum(axis=1),
            self.hit.sum(axis=1),
            self.robust.sum(axis=1),
            (self.candidates & ~self.eligible).sum(axis=1),
            strict=True,
        )
        return tuple(
            GoalCounts(
                goal=goal, n_eligible=int(a), n_fooled=int(b), n_hit=int(c), n_robust=int(d), n_left_alone=int(e)
            )
            for goal, a, b, c, d, e in columns
        )


def target_of(goal: str) -> int:
    """Class id of a goal, -1 for an untargeted one.

    >>> target_of("3"), target_of("untargeted")
    (3, -1)
    """
    return NO_TARGET if goal == "untargeted" else int(goal)


def assert_identities(cell: str, n_clean_correct: int, counts: Sequence[GoalCounts]) -> None:
    """Internal invariants of counted rates.

    Raises:
        AssertionError: asr_targeted > asr, or robust_accuracy != clean_accuracy * (1 - asr) where no target is
            excluded; names the cell.
    """
    for count in counts:
        if count.n_hit > count.n_fooled:
            raise AssertionError(
                f"cell {cell}, goal {count.goal}: asr_targeted exceeds asr: {count.n_hit} hits among "
                f"{count.n_fooled} fooled of {count.n_eligible}"
            )
        if target_of(count.goal) == NO_TARGET:
            candidates, expected = n_clean_correct - count.n_left_alone, n_clean_correct - count.n_fooled
            # Of images left alone, none or all may stay right.
            if count.n_eligible != candidates or not 0 <= expected - count.n_robust <= count.n_left_alone:
                raise AssertionError(
                    f"cell {cell}, untargeted: robust_accuracy is not clean_accuracy * (1 - asr): expected "
                    f"{candidates} eligible and {expected} robust, found {count.n_eligible} and {count.n_robust}"
                )


class StoredOutcomes(NamedTuple):
    """What a run folder holds of one cell, images in the order of their ids.

    Attributes:
        outcomes: labels and predictions.
        ids: names of the N images.
        rows, columns: (G, N) integers, top-left pixel of the patch.
        queries: (G, N), of score-based attacks only.
    """

    outcomes: Outcomes
    ids: tuple[str, ...]
    rows: Array
    columns: Array
    queries: Array | None
