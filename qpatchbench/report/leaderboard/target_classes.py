"""The target classes that are hit most and least often, and the collapse of answers onto one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qpatchbench.runs.outcomes import NO_TARGET, Outcomes


def extremes_of_targets(outcomes: Sequence[Outcomes]) -> dict[str, float]:
    """Largest and smallest rate of hits over target classes, as fractions, seeds together; nothing below two classes.

    Args:
        outcomes: of the seeds of one row, which share their goals.
    """
    eligible = np.stack([each.eligible.sum(axis=1) for each in outcomes]).sum(axis=0)
    hit = np.stack([each.hit.sum(axis=1) for each in outcomes]).sum(axis=0)
    known = (outcomes[0].targets[:, 0] != NO_TARGET) & (eligible > 0)
    if known.sum() < 2:
        return {}
    rates = hit[known] / eligible[known]
    return {"asr_targeted_best": float(rates.max()), "asr_targeted_least": float(rates.min())}


def collapse(outcomes: Sequence[Outcomes]) -> dict[str, float]:
    """Of the images that untargeted patches fool, the share that gets one and the same wrong answer, as a fraction.

    The class is the most frequent one of its seed and goal; nothing where no such patch fools an image. Spread evenly
    over the K - 1 wrong classes it would be 1 / (K - 1).
    """
    same = fooled = 0
    for each in outcomes:
        for row in np.flatnonzero(each.targets[:, 0] == NO_TARGET):
            answers = each.patched[row][each.fooled[row]]
            if len(answers):
                same += int(np.unique(answers, return_counts=True)[1].max())
                fooled += len(answers)
    return {"collapse": same / fooled} if fooled else {}
