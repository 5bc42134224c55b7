"""Intervals and tests for rates.

Pure numpy and scipy; no torch, no global randomness. Wilson's score interval: Wilson, 1927,
doi:10.1080/01621459.1927.10502953. Exact McNemar test: McNemar, 1947, doi:10.1007/BF02295996, as a binomial test of the
discordant pairs. Bootstrap of crossed factors: every factor is resampled on its own and the weights are multiplied (the
pigeonhole bootstrap; Owen, 2007, arXiv:0712.1111, section 4).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.special import bdtr, ndtri

CONFIDENCE = 0.95
REPLICATES = 1000
BOOTSTRAP_SEED = 20240229
_CHUNK = 100  # replicates at a time: bounds the memory of resampling many images

Array: TypeAlias = np.ndarray[Any, Any]


class Interval(NamedTuple):
    """Lower and upper bound; NaN where there is nothing to estimate."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a binomial rate, as a fraction in [0, 1]; NaN without trials.

    Raises:
        ValueError: successes outside 0..trials.

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, found {successes} successes in {trials} trials")
    if trials == 0:
        return Interval(math.nan, math.nan)
    z = float(ndtri((1 + confidence) / 2))
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # At 0 and 1 the bound is exact; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that two paired success rates are equal, from the counts of discordant pairs.

    >>> mcnemar_exact(0, 5)
    0.0625
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts, found {only_first} and {only_second}")
    discordant = only_first + only_second
    # Under the null both tails are the same: twice the smaller one. An even split would count its middle twice.
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))


def resampled_totals(values: Array, replicates: int = REPLICATES) -> Array:
    """Bootstrap totals over crossed factors.

    The seed is fixed, and every factor has its own stream, so that two calls on the same images use the same
    resamples: rows are compared in pairs by subtracting their replicates.

    Args:
        values: (K, seeds, goals, images), boolean or small counts. A factor with one level is not resampled.
        replicates: number of resamples R.

    Returns:
        (R, K) float64, exact integers.
    """
    kinds, seeds, goals, images = values.shape
    flat = values.reshape(-1, images).T.astype(np.float32)  # (images, K * seeds * goals)
    seed_weights, goal_weights = _weights(0, seeds, replicates), _weights(1, goals, replicates)
    image_weights = _weights(2, images, replicates)
    totals = np.empty((replicates, kinds))
    for first in range(0, replicates, _CHUNK):
        part = slice(first, first + _CHUNK)
        over_images = (image_weights[part].astype(np.float32) @ flat).astype(np.float64)
        cells = over_images.reshape(-1, kinds, seeds, goals)
        totals[part] = np.einsum(
            "rksg,rs,rg->rk", cells, seed_weights[part].astype(float), goal_weights[part].astype(float)
        )
    return totals


@functools.lru_cache(maxsize=16)
def _weights(factor: int, levels: int, replicates: int) -> Array:
    """How often each level is drawn in each replicate: multinomial; (replicates, levels) uint16."""
    if levels == 1:
        return np.ones((replicates, 1), np.uint16)
    generator = np.random.default_rng([BOOTSTRAP_SEED, factor, levels])
    weights = np.empty((replicates, levels), np.uint16)
    for first in range(0, replicates, _CHUNK):
        rows = min(_CHUNK, replicates - first)
        drawn = generator.integers(0, levels, size=(rows, levels))
        offset = np.arange(rows)[:, None] * levels
        weights[first : first + rows] = np.bincount((drawn + offset).ravel(), minlength=rows * levels).reshape(
            rows, levels
        )
    return weights


def rates(successes: Array, trials: Array) -> Array:
    """Elementwise successes / trials; NaN where there are no trials."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(trials > 0, successes / trials, np.nan))


def percentile_interval(replicates: Array, confidence: float = CONFIDENCE) -> Interval:
    """Percentile bootstrap interval; replicates that are NaN have no denominator and are left out."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def bootstrap_rates(success: Array, eligible: Array, replicates: int = REPLICATES) -> Array:
    """Replicates of sum(success) / sum(eligible); both (seeds, goals, images) boolean; (R,) float64."""
    if success.shape != eligible.shape or success.ndim != 3:
        raise ValueError(f"expected two arrays (seeds, goals, images), found {success.shape} and {eligible.shape}")
    totals = resampled_totals(np.stack([success & eligible, eligible]), replicates)
    return rates(totals[:, 0], totals[:, 1])


def cluster_bootstrap_rate(
    success: Array, eligible: Array, confidence: float = CONFIDENCE, replicates: int = REPLICATES
) -> Interval:
    """Interval of a rate over the crossed factors seed, goal and image; arrays as for `bootstrap_rates`."""
    return percentile_interval(bootstrap_rates(success, eligible, replicates), confidence)


def paired_difference(
    first_success: Array,
    first_eligible: Array,
    second_success: Array,
    second_eligible: Array,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
) -> Interval:
    """Interval of rate(first) - rate(second) on the same resamples; arrays as for `bootstrap_rates`."""
    if first_success.shape != second_success.shape:
        raise ValueError(f"pairs need equal shapes, found {first_success.shape} and {second_success.shape}")
    first = bootstrap_rates(first_success, first_eligible, replicates)
    return percentile_interval(first - bootstrap_rates(second_success, second_eligible, replicates), confidence)
