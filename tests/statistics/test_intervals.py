from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qpatchbench.statistics.intervals import (
    Array,
    bootstrap_rates,
    cluster_bootstrap_rate,
    mcnemar_exact,
    paired_difference,
    percentile_interval,
    rates,
    resampled_totals,
    wilson,
)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (1, 7), (3, 7), (7, 7), (81, 263), (9999, 10000)])
def test_wilson_agrees_with_scipy(successes: int, trials: int, confidence: float) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    found = wilson(successes, trials, confidence)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_value_from_the_literature() -> None:
    # Newcombe, 1998, Statistics in Medicine 17, table I: 81 of 263, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_without_trials_is_not_a_number() -> None:
    assert all(math.isnan(bound) for bound in wilson(0, 0))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=rf"found {successes} successes in {trials} trials"):
        wilson(successes, trials)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 5), (5, 5), (12, 3), (3, 12), (400, 331), (1, 0)])
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(first: int, second: int) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


def test_mcnemar_without_discordant_pairs_says_nothing() -> None:
    assert mcnemar_exact(0, 0) == 1.0


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="found -1 and 3"):
        mcnemar_exact(-1, 3)


def test_resampled_totals_agree_with_a_loop_over_drawn_levels() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((2, 3, 4, 5)) < 0.5
    # Weights by factor, read off indicator arrays: the total of one level's indicator is its weight times the rest.
    totals = resampled_totals(values, replicates=50)
    seeds, goals, images = (_weights_of(axis, (3, 4, 5), 50) for axis in range(3))
    for replicate in range(50):
        for kind in range(2):
            drawn = [
                int(values[kind, s, g, i]) * seeds[replicate, s] * goals[replicate, g] * images[replicate, i]
                for s in range(3)
                for g in range(4)
                for i in range(5)
            ]
            assert totals[replicate, kind] == sum(drawn)
    for weights, levels in ((seeds, 3), (goals, 4), (images, 5)):
        assert (weights.sum(axis=1) == levels).all()
        assert weights.std() > 0


def _weights_of(axis: int, shape: tuple[int, int, int], replicates: int) -> Array:
    indicators = np.zeros((shape[axis], *shape))
    for level in range(shape[axis]):
        place: list[slice | int] = [slice(None)] * 3
        place[axis] = level
        indicators[(level, *place)] = 1
    others = np.prod(shape) / shape[axis]  # multinomial weights of a factor add up to its number of levels
    return np.asarray(resampled_totals(indicators, replicates) / others)


def test_a_factor_with_one_level_is_not_resampled() -> None:
    values = np.ones((1, 1, 1, 30))
    assert (resampled_totals(values, 20) == 30).all()
    assert (_weights_of(0, (1, 1, 30), 20) == 1).all()


def test_images_are_resampled_alike_whatever_the_number_of_seeds() -> None:
    assert (_weights_of(2, (1, 1, 40), 20) == _weights_of(2, (3, 5, 40), 20)).all()


def test_resampling_is_the_same_every_time() -> None:
    values = np.random.default_rng(1).random((1, 2, 3, 40)) < 0.3
    assert (resampled_totals(values) == resampled_totals(values.copy())).all()


def test_one_seed_and_goal_agree_with_the_normal_approximation() -> None:
    success = np.random.default_rng(2).random((1, 1, 4000)) < 0.3
    rate = success.mean()
    half = 1.96 * math.sqrt(rate * (1 - rate) / 4000)
    low, high = cluster_bootstrap_rate(success, np.ones_like(success))
    assert low == pytest.approx(rate - half, abs=0.003)
    assert high == pytest.approx(rate + half, abs=0.003)


def test_clusters_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    of_goal = generator.choice([0.2, 0.8], (1, 12, 1))
    success = generator.random((1, 12, 300)) < of_goal
    clustered = cluster_bootstrap_rate(success, np.ones_like(success))
    flat = wilson(int(success.sum()), success.size)
    assert clustered.high - clustered.low > 4 * (flat.high - flat.low)


def test_coverage_of_the_cluster_bootstrap() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(120):
        goals, images = generator.normal(0, 0.6, (1, 20, 1)), generator.normal(0, 0.6, (1, 1, 80))
        success = generator.normal(0, 1, (1, 20, 80)) + goals + images > 0  # the rate of the population is 1/2
        low, high = cluster_bootstrap_rate(success, np.ones_like(success), replicates=300)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 120 <= 1.0  # binomial noise of 120 trials about 0.95 is 0.02


def test_ineligible_images_do_not_count() -> None:
    generator = np.random.default_rng(5)
    success = generator.random((2, 3, 50)) < 0.5
    eligible = generator.random((2, 3, 50)) < 0.5
    other = np.where(eligible, success, ~success)
    assert (bootstrap_rates(success, eligible) == bootstrap_rates(other, eligible)).all()


def test_nothing_eligible_is_not_a_number() -> None:
    none = np.zeros((1, 2, 10), bool)
    assert all(math.isnan(bound) for bound in cluster_bootstrap_rate(none, none))


def test_replicates_without_denominator_are_left_out() -> None:
    assert percentile_interval(np.array([0.5, np.nan, 0.5])) == (0.5, 0.5)
    assert np.array_equal(rates(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, np.nan], equal_nan=True)


def test_identical_rows_differ_by_exactly_zero() -> None:
    generator = np.random.default_rng(6)
    success, eligible = generator.random((2, 2, 3, 60)) < 0.5
    assert paired_difference(success, eligible, success, eligible) == (0.0, 0.0)


def test_pairing_finds_a_difference_that_separate_intervals_hide() -> None:
    generator = np.random.default_rng(7)
    first = generator.random((1, 1, 500)) < 0.5
    second = first.copy()
    second[0, 0, np.flatnonzero(~first[0, 0])[:15]] = True  # 15 more images, and none fewer
    eligible = np.ones_like(first)
    low, high = paired_difference(second, eligible, first, eligible)
    assert 0 < low < 15 / 500 < high
    assert cluster_bootstrap_rate(first, eligible).high > cluster_bootstrap_rate(second, eligible).low


def test_shapes_are_checked() -> None:
    flat, cube = np.ones((2, 3), bool), np.ones((1, 2, 3), bool)
    with pytest.raises(ValueError, match="seeds, goals, images"):
        bootstrap_rates(flat, flat)
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(cube, cube, np.ones((1, 2, 4), bool), np.ones((1, 2, 4), bool))
