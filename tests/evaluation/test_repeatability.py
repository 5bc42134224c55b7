"""Predictions made again against those stored; Holm's correction; differences of paired rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from qpatchbench.evaluation.repeatability import judged, tolerance
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.statistics.holm import holm
from qpatchbench.statistics.intervals import Array, wilson
from qpatchbench.statistics.paired_rates import error_of_interval, normal_p_value, paired_rates

IMAGES = 400
IDS = tuple(f"image {number}" for number in range(IMAGES))


def outcomes(fooled: int) -> Outcomes:
    """All right without the patch; the first `fooled` wrong with it, one untargeted goal and ten classes."""
    labels = np.arange(IMAGES) % 10
    patched = np.where(np.arange(IMAGES) < fooled, (labels + 1) % 10, labels)[None]
    return Outcomes(labels, labels, patched, ("untargeted",))


@pytest.mark.parametrize("exact", [True, False])
def test_equal_predictions_are_accepted_without_a_word(exact: bool) -> None:
    stored = outcomes(100)
    assert judged(stored, stored.patched.copy(), IDS, exact=exact) == (IMAGES, 0, True, "")


@pytest.mark.parametrize(("flips", "accepted"), [(1, True), (2, True), (3, False)])
def test_other_hardware_may_flip_half_a_percent(flips: int, accepted: bool) -> None:
    stored = outcomes(100)
    again = outcomes(100 + flips).patched
    elsewhere = judged(stored, again, IDS, exact=False)
    assert (elsewhere.differ, elsewhere.accepted) == (flips, accepted)
    assert not judged(stored, again, IDS, exact=True).accepted
    assert f"fooled {100 + flips}, stored 100 of 400: inside its 95 % interval" in elsewhere.text
    assert elsewhere.text.startswith(f"{flips} of 400 predictions differ: image image 100, goal untargeted: expected ")


def test_a_count_outside_the_interval_is_never_accepted() -> None:
    labels = np.zeros(300, np.int64)
    stored = Outcomes(labels, labels, np.ones((1, 300), np.int64), ("untargeted",))
    again = stored.patched.copy()
    again[0, 0] = 0  # one flip of 300 is within the tolerance of 0.5 %, or one
    assert wilson(300, 300).low < 299 / 300
    assert judged(stored, again, tuple(map(str, range(300))), exact=False).accepted
    nothing = Outcomes(labels, labels + 1, stored.patched, ("untargeted",))  # no eligible image: counts must agree
    assert judged(nothing, again, tuple(map(str, range(300))), exact=False).accepted


def test_only_a_few_differences_are_named() -> None:
    text = judged(outcomes(0), outcomes(50).patched, IDS, exact=True).text
    assert text.count("image image ") == 3
    assert "; 47 more; fooled 50, stored 0 of 400: outside its 95 % interval" in text


def test_both_tolerances_are_stated() -> None:
    assert "no prediction may differ" in tolerance(exact=True)
    assert "at most 0.5 % of a cell's predictions (or one)" in tolerance(exact=False)


def holm_by_hand(p_values: list[float]) -> list[float]:
    """Straight from the definition: the k-th smallest times n - k + 1, never smaller than an earlier one."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def test_holm_is_its_definition() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        p_values = list(generator.random(count) ** 3)
        assert holm(p_values) == pytest.approx(holm_by_hand(p_values))
        assert all(after >= before for after, before in zip(holm(p_values), p_values, strict=True))
        assert all(after <= min(1.0, count * p) + 1e-12 for after, p in zip(holm(p_values), p_values, strict=True))
    assert holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


def test_what_is_no_test_does_not_count() -> None:
    found = holm([math.nan, 0.02, math.nan, 0.5])
    assert [found[1], found[3]] == [0.04, 0.5]
    assert math.isnan(found[0])
    assert math.isnan(found[2])


def test_holm_rejects_rarely_where_nothing_differs() -> None:
    """The chance of any rejection among 20 true hypotheses stays below 5 %; uncorrected it would be 64 %."""
    generator = np.random.default_rng(1)
    trials = generator.random((2000, 20))
    assert np.mean([min(holm(list(row))) < 0.05 for row in trials]) < 0.065
    assert np.mean(trials.min(axis=1) < 0.05) > 0.6


def drawn(rate: float, seed: int, seeds: int = 1, goals: int = 1) -> Array:
    return np.random.default_rng(seed).random((seeds, goals, IMAGES)) < rate


def test_one_seed_and_goal_is_tested_by_mcnemar_on_what_counts_in_both() -> None:
    first, second = drawn(0.5, 0), drawn(0.6, 1)
    counts_first, counts_second = drawn(0.9, 2), drawn(0.8, 3)
    found = paired_rates(first, counts_first, second, counts_second)
    both = counts_first & counts_second
    only = int((both & first & ~second).sum()), int((both & second & ~first).sum())
    assert (found.only_first, found.only_second) == only
    assert found.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    rate = [(s & c).sum() / c.sum() for s, c in ((first, counts_first), (second, counts_second))]
    assert found.value == pytest.approx(rate[1] - rate[0])
    assert found.low < found.value < found.high


def test_equal_rates_do_not_differ() -> None:
    same = drawn(0.3, 4, seeds=2, goals=3)
    found = paired_rates(same, np.ones_like(same), same, np.ones_like(same))
    assert found == (0.0, 0.0, 0.0, 1.0, None, None)


def test_pairing_narrows_the_interval() -> None:
    everything = np.ones((1, 1, IMAGES), bool)
    first = drawn(0.5, 5)
    second = first ^ (drawn(0.02, 6))  # almost the same images
    paired = paired_rates(first, everything, second, everything)
    apart = paired_rates(first, everything, np.roll(second, 7, axis=2), everything)
    assert paired.high - paired.low < 0.4 * (apart.high - apart.low)


def test_different_numbers_of_seeds_are_compared() -> None:
    first, second = drawn(0.4, 7, seeds=3, goals=2), drawn(0.7, 8, seeds=1, goals=2)
    found = paired_rates(first, np.ones_like(first), second, np.ones_like(second))
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert 0 < found.low < found.value < found.high
    assert found.p_value < 1e-6
    assert found.only_first is None


def test_nothing_eligible_is_no_difference_and_no_test() -> None:
    some = drawn(0.5, 9)
    found = paired_rates(some, np.zeros_like(some), some, np.ones_like(some))
    assert all(math.isnan(number) for number in found[:4])


def test_other_images_cannot_be_paired() -> None:
    some = drawn(0.5, 9)
    with pytest.raises(ValueError, match=r"expected the same goals and images, found \(1, 1, 400\) and \(1, 1, 399\)"):
        paired_rates(some, some, some[..., 1:], some[..., 1:])


def test_p_values_of_normal_differences() -> None:
    assert normal_p_value(-0.3, 0.1) == pytest.approx(2 * norm.sf(3))
    assert normal_p_value(0.3, 0.0) == 0.0
    assert normal_p_value(0.0, 0.0) == 1.0
    assert math.isnan(normal_p_value(math.nan, 1.0))
    assert error_of_interval(-1.96, 1.96) == pytest.approx(1.0, abs=1e-3)
