"""V5: the loss of a finished optimisation has stopped falling, judged by its recorded history alone.

Imports no torch. The noise of the steps is estimated from successive differences (von Neumann 1941,
doi:10.1214/aoms/1177731677), which a trend hardly touches: the scatter about a mean would take the very fall that is
looked for as noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from qpatchbench.runs.records import Check

FEWEST_STEPS = 50  # five of them in a tenth
CONFIDENCE = 0.99  # of every history: a run has hundreds
LEAST_SHARE = 0.02  # of the whole fall; without noise, any fall however small would count


def has_converged(history: Sequence[float]) -> Check:
    """V5: compare the mean loss of the last tenth of the steps with that of the tenth before.

    Args:
        history: mean loss of every recorded step, minimised; of any length.

    Returns:
        `warn` where the loss falls between the two, beyond noise and by a share of the whole fall that matters.
    """
    losses = np.asarray(history, float)
    if len(losses) < FEWEST_STEPS:
        message = f"{len(losses)} steps were recorded, expected at least {FEWEST_STEPS}"
        return Check(id="V5", verdict="not-run", message=message)
    if not np.isfinite(losses).all():
        return Check(id="V5", verdict="not-run", message="the recorded losses are not finite")
    count = len(losses) // 10
    last, before = losses[-count:], losses[-2 * count : -count]
    fall = float(before.mean() - last.mean())
    whole = float(losses[:count].max() - last.mean())
    margin = float(stdtrit(count, (1 + CONFIDENCE) / 2)) * noise(losses[-2 * count :]) * math.sqrt(2 / count)
    figures = {"fall": fall, "fall_low": fall - margin, "fall_high": fall + margin, "whole_fall": whole}
    if fall <= margin or fall <= LEAST_SHARE * whole:
        return Check(id="V5", verdict="pass", figures=figures)
    message = (
        f"in the last tenth of the steps the loss still falls by {fall:.3g} [{fall - margin:.3g}, {fall + margin:.3g}]"
    )
    message += f", {100 * fall / whole:.0f} % of its whole fall" if whole > 0 else ""
    return Check(id="V5", verdict="warn", message=message, figures=figures)


def noise(losses: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Standard deviation of a step's loss about its trend: root of half the mean square of successive differences.

    >>> noise(np.array([0.0, 2.0, 0.0, 2.0]))
    1.4142135623730951
    """
    return float(np.sqrt(np.square(np.diff(losses)).mean() / 2))
