"""Holm's correction for many tests at once.

Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by the step-down method of Holm (1979, Scandinavian Journal of Statistics 6, 65-70).

    Rejecting where the adjusted value is below a level keeps the chance of any false rejection below that level,
    however the tests depend on each other. NaN is no test and stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    raised = values[order] * np.arange(len(order), 0, -1)
    adjusted = values.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised)) if len(order) else raised
    return [float(value) for value in adjusted]
