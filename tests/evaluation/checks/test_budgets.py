"""V11, V12 and V14 on outcomes given by hand: what is caught, and what is left to chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from qpatchbench.evaluation.checks.budgets import (
    LEAST_DISAGREEMENT,
    LEAST_GAP,
    Rung,
    budget_is_used,
    gradients_agree,
    implementations_agree,
)
from qpatchbench.statistics.intervals import Array

COUNT = 128
ELIGIBLE = np.ones((1, 1, COUNT), bool)
GOALS = np.ones((1, 10, COUNT), bool)


def first(count: int) -> Array:
    """The first `count` of the images, one goal."""
    return (np.arange(COUNT) < count)[None, None]


def drawn(rate: float, seed: int) -> Array:
    """Ten goals, each image fooled at random."""
    return np.random.default_rng(seed).random((1, 10, COUNT)) < rate


def test_larger_budgets_that_fool_more_pass() -> None:
    rungs = [Rung("25 of 100 steps", first(60), True), Rung("12x12 pixels instead of 6x6", first(110), False)]
    check = budget_is_used(first(80), ELIGIBLE, rungs, first(128))
    assert (check.id, check.verdict, check.message) == ("V11", "pass", "")
    assert check.figures == {
        "fooled": 80, "eligible": 128, "25 of 100 steps": 60, "12x12 pixels instead of 6x6": 110, "whole image": 128,
    }  # fmt: skip


def test_a_larger_patch_that_fools_fewer_is_caught() -> None:
    check = budget_is_used(first(80), ELIGIBLE, [Rung("12x12 pixels instead of 6x6", first(50), False)], None)
    assert check.verdict == "fail"
    assert (
        "12x12 pixels instead of 6x6 fool fewer, 50 of 128, the row's patch 80 (McNemar p = 1.86e-09)" in check.message
    )


@pytest.mark.parametrize("what", ["25 of 100 steps", "1 of 3 restarts"])
def test_a_smaller_budget_that_fools_more_is_caught(what: str) -> None:
    check = budget_is_used(first(50), ELIGIBLE, [Rung(what, first(80), True)], None)
    assert check.verdict == "fail"
    assert f"{what} fool more, 80 of 128, the row's patch 50" in check.message


def test_an_attack_that_ignores_its_steps_is_caught() -> None:
    check = budget_is_used(first(50), ELIGIBLE, [Rung("25 of 100 steps", first(50), True, same=True)], None)
    assert check.verdict == "fail"
    assert check.message == "25 of 100 steps give the very same patch: they are not used, or the gradient is zero"


def test_the_same_patch_is_no_fault_where_nothing_is_left_to_fool() -> None:
    rung = Rung("25 of 100 steps", first(COUNT), True, same=True)
    assert budget_is_used(first(COUNT), ELIGIBLE, [rung], None).verdict == "pass"


def test_the_luck_of_crafting_is_no_fault() -> None:
    """Two patches of equal strength differ significantly on many images, by less than LEAST_GAP."""
    stronger, weaker = drawn(0.53, 0), drawn(0.5, 0)
    assert (weaker <= stronger).all(), "the same draws, hence significant"
    assert budget_is_used(weaker, GOALS, [Rung("25 of 100 steps", stronger, True)], None).verdict == "pass"
    much = drawn(0.5 + 2 * LEAST_GAP, 0)
    assert budget_is_used(weaker, GOALS, [Rung("25 of 100 steps", much, True)], None).verdict == "fail"


def test_the_luck_of_few_images_is_no_fault() -> None:
    """Ten points, on twenty images."""
    few = (np.arange(COUNT) < 20)[None, None]
    assert budget_is_used(first(10), few, [Rung("25 of 100 steps", first(12), True)], None).verdict == "pass"


@pytest.mark.parametrize(("count", "verdict"), [(128, "pass"), (124, "pass"), (115, "fail"), (0, "fail")])
def test_a_patch_of_the_whole_image_has_to_fool_nearly_all(count: int, verdict: str) -> None:
    check = budget_is_used(first(0), ELIGIBLE, [], first(count))
    assert check.verdict == verdict
    assert check.message == ("" if verdict == "pass" else f"a patch of the whole image fools {count} of 128 only")


def test_all_problems_are_told_at_once() -> None:
    rungs = [Rung("1 of 4 steps", first(90), True), Rung("8x8 pixels instead of 4x4", first(5), False)]
    check = budget_is_used(first(50), ELIGIBLE, rungs, first(60))
    assert [part.split(" fool")[0] for part in check.message.split("; ")] == [
        "1 of 4 steps", "8x8 pixels instead of 4x4", "a patch of the whole image",
    ]  # fmt: skip


def test_without_eligible_images_nothing_is_said() -> None:
    nothing = np.zeros_like(ELIGIBLE)
    for check in (
        budget_is_used(nothing, nothing, [], None),
        gradients_agree("network", {"network": nothing}, nothing),
        implementations_agree(nothing, nothing, nothing),
    ):
        assert (check.verdict, check.message) == ("not-run", "no image is eligible")


def test_images_that_are_not_eligible_do_not_count() -> None:
    eligible = first(64)
    check = budget_is_used(first(40), eligible, [Rung("more", first(64) | ~first(64), False)], None)
    assert (check.figures["eligible"], check.figures["more"]) == (64, 64)


def test_a_stronger_gradient_is_named() -> None:
    variants = {"network": first(10), "float": first(70), "identity": first(12)}
    check = gradients_agree("network", variants, ELIGIBLE)
    assert (check.id, check.verdict) == ("V12", "warn")
    assert "following the gradient float fools 70 of 128, following network, as here, 10" in check.message
    assert "network 10, float 70, identity 12" in check.message


@pytest.mark.parametrize(
    "variants",
    [
        {"network": first(70), "float": first(10), "identity": first(70)},
        {"network": first(70), "float": first(73)},
    ],
)
def test_the_strongest_gradient_or_nearly_so_passes(variants: Mapping[str, Array]) -> None:
    check = gradients_agree("network", variants, ELIGIBLE)
    assert check.verdict == "pass"
    best = max(variants, key=lambda name: int(variants[name].sum()))
    assert check.message.startswith(f"the strongest gradient is {best}; of 128 images fool: network 70, float")


def test_the_weaker_choice_of_an_attack_is_told_too() -> None:
    check = gradients_agree("float", {"float": first(20), "network": first(90)}, ELIGIBLE)
    assert check.verdict == "warn"
    assert check.figures == {"float": 20, "network": 90, "eligible": 128}


@pytest.mark.parametrize(("own", "second", "verdict"), [(60, 62, "pass"), (40, 70, "fail"), (70, 40, "warn")])
def test_implementations_agree_or_not(own: int, second: int, verdict: str) -> None:
    check = implementations_agree(first(own), first(second), ELIGIBLE)
    assert (check.id, check.verdict) == ("V14", verdict)
    assert check.figures == {"own": own, "second": second, "eligible": 128}
    assert check.message.startswith(f"a second implementation reaches the goal on {second} of 128, the row's on {own}")
    assert ("McNemar" in check.message) == (verdict != "pass")


def test_a_significant_difference_that_crafting_again_might_make_passes() -> None:
    """Ten goals: 4 points are significant, and within what other draws give."""
    own, second = drawn(0.50, 0), drawn(0.50, 0) | drawn(0.08, 1)
    gap = (second.sum() - own.sum()) / own.size
    assert LEAST_GAP / 2 < gap < LEAST_DISAGREEMENT
    assert implementations_agree(own, second, GOALS).verdict == "pass"
