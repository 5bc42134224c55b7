"""The difference of two rates that were measured on the same images.

Pure numpy; no torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from qpatchbench.statistics.intervals import (
    CONFIDENCE,
    Array,
    bootstrap_rates,
    mcnemar_exact,
    percentile_interval,
    rates,
)


class RateDifference(NamedTuple):
    """Second rate minus first, fractions.

    Attributes:
        value, low, high: the difference and its 95 % interval; NaN where a rate has no denominator.
        p_value: two-sided, that there is no difference.
        only_first, only_second: images that count in both and succeed in one only; None with several seeds or goals.
    """

    value: float
    low: float
    high: float
    p_value: float
    only_first: int | None = None
    only_second: int | None = None


def paired_rates(
    first_success: Array, first_eligible: Array, second_success: Array, second_eligible: Array
) -> RateDifference:
    """Compare two rates with denominators of their own.

    One bootstrap over images and goals serves both, so that what they share cancels; different numbers of seeds are
    resampled on their own. With one seed and goal p is the exact McNemar test on the images that are eligible in both,
    otherwise that of a normal difference with the bootstrap's standard error.

    Args:
        first_success: (seeds, goals, images) boolean.
        first_eligible: the same shape; the images that count.
        second_success: (seeds, goals, images) boolean; the number of seeds may be another.
        second_eligible: the same shape; the images that count.

    Raises:
        ValueError: other goals or images.
    """
    if first_success.shape[1:] != second_success.shape[1:]:
        raise ValueError(f"expected the same goals and images, found {first_success.shape} and {second_success.shape}")
    counts = [
        np.array([float((success & eligible).sum()), float(eligible.sum())])
        for success, eligible in ((first_success, first_eligible), (second_success, second_eligible))
    ]
    value = float(rates(counts[1][0], counts[1][1]) - rates(counts[0][0], counts[0][1]))
    if math.isnan(value):
        return RateDifference(math.nan, math.nan, math.nan, math.nan)
    drawn = bootstrap_rates(second_success, second_eligible) - bootstrap_rates(first_success, first_eligible)
    low, high = percentile_interval(drawn)
    if first_success.shape[:2] == second_success.shape[:2] == (1, 1):
        both = first_eligible & second_eligible
        only_first = int((both & first_success & ~second_success).sum())
        only_second = int((both & second_success & ~first_success).sum())
        return RateDifference(value, low, high, mcnemar_exact(only_first, only_second), only_first, only_second)
    return RateDifference(value, low, high, normal_p_value(value, float(np.nanstd(drawn))))


def normal_p_value(difference: float, standard_error: float) -> float:
    """Two-sided p of a difference that is normal around 0; 1 without any difference.

    >>> round(normal_p_value(1.96, 1.0), 3)
    0.05
    """
    if difference == 0 or math.isnan(difference) or math.isnan(standard_error):
        return math.nan if math.isnan(difference) or math.isnan(standard_error) else 1.0
    return 2 * float(ndtr(-abs(difference) / standard_error)) if standard_error > 0 else 0.0


def error_of_interval(low: float, high: float) -> float:
    """Standard error that a normal 95 % interval of this width has."""
    return (high - low) / (2 * float(ndtri((1 + CONFIDENCE) / 2)))
