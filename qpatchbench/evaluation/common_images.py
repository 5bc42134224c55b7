"""Sets of images from which rates are counted: eligible, fooled, hit, robust.

Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qpatchbench.runs.records import CellRecord
from qpatchbench.statistics.intervals import Array


def common_images(correct: Sequence[Array]) -> Array:
    """Images that every network classifies correctly; from (N,) boolean arrays, at least one."""
    return np.asarray(np.logical_and.reduce(correct))


def has_collapsed(cells: Sequence[CellRecord]) -> bool:
    """Whether a network's clean accuracy is at chance: any of its cells failed V6."""
    return any(check.id == "V6" and check.verdict == "fail" for cell in cells for check in cell.checks)
