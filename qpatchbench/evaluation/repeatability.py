"""Agreement of predictions that were made again with those that were stored.

Pure numpy; imports no torch. On the same processor with the same torch, arithmetic is repeated exactly and nothing may
differ. On other hardware sums are added in another order; an image whose two best classes are nearly tied may then
change sides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.statistics.intervals import Array, wilson

FLIPS = 0.005  # share of predictions that other hardware may change; V1 and V16 allow as much
NAMED = 3  # differing predictions that a message names


class RepeatJudgement(NamedTuple):
    """Stored predictions against those made again.

    Attributes:
        predictions, differ: how many there are, and how many are others.
        accepted: within the tolerance.
        text: what was found, in words; empty where nothing differs.
    """

    predictions: int
    differ: int
    accepted: bool
    text: str


def judged(stored: Outcomes, again: Array, ids: tuple[str, ...], *, exact: bool) -> RepeatJudgement:
    """Compare patched predictions, (G, N) each.

    Args:
        stored: what the run kept.
        again: what the network answers now, on the same images in the same order.
        ids: names of the N images.
        exact: nothing may differ: the same device and torch. Otherwise at most FLIPS of the predictions (or one) may,
            and the number of fooled images must stay inside the 95 % interval of the stored number.
    """
    places = np.argwhere(stored.patched != again)
    differ, count = len(places), int(again.size)
    if not differ:
        return RepeatJudgement(count, 0, True, "")
    named = [
        f"image {ids[image]}, goal {stored.goals[goal]}: expected class {again[goal, image]}, "
        f"found {stored.patched[goal, image]}"
        for goal, image in places[:NAMED]
    ]
    more = [f"{differ - NAMED} more"] if differ > NAMED else []
    found = f"{differ} of {count} predictions differ: {'; '.join([*named, *more])}"
    fooled = int((stored.eligible & (again != stored.labels)).sum())
    before, eligible = int(stored.fooled.sum()), int(stored.eligible.sum())
    inside = _inside(fooled, before, eligible)
    where = "inside" if inside else "outside"
    text = f"{found}; fooled {fooled}, stored {before} of {eligible}: {where} its 95 % interval"
    accepted = not exact and inside and differ <= max(1, FLIPS * count)
    return RepeatJudgement(count, differ, accepted, text)


def tolerance(*, exact: bool) -> str:
    """What `judged` allows, for people."""
    if exact:
        return "the same device and torch: no prediction may differ"
    return (
        f"another device or torch: near-ties may flip, at most {100 * FLIPS:g} % of a cell's predictions (or one), and "
        "the number of fooled images must stay inside its 95 % interval"
    )


def _inside(fooled: int, before: int, eligible: int) -> bool:
    if not eligible:
        return fooled == before
    low, high = wilson(before, eligible)
    return bool(low <= fooled / eligible <= high)
