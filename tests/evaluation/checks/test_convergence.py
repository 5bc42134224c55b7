"""V5 on histories whose course is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qpatchbench.evaluation.checks.convergence import FEWEST_STEPS, LEAST_SHARE, has_converged, noise
from qpatchbench.statistics.intervals import Array

STEPS = 300


def decay(steps: int, constant: float, depth: float = 5.0) -> Array:
    """An exponential fall by `depth` whose time constant is a share of all steps."""
    return depth * np.exp(-np.arange(steps) / (constant * steps))


def noisy(losses: Array, size: float, seed: int) -> list[float]:
    return list(losses + size * np.random.default_rng(seed).standard_normal(len(losses)))


def test_a_fall_without_noise_is_seen_and_told() -> None:
    check = has_converged(list(np.linspace(5, 0, 100)))
    assert (check.id, check.verdict) == ("V5", "warn")
    assert check.figures["fall"] == pytest.approx(5 * 10 / 99)
    assert check.figures["whole_fall"] == pytest.approx(5 * 94.5 / 99)
    assert "still falls by 0.505 [" in check.message
    assert "11 % of its whole fall" in check.message


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0])
def test_a_converged_history_passes_with_any_noise(size: float) -> None:
    for seed in range(20):
        check = has_converged(noisy(decay(STEPS, 0.1), size, seed))
        assert check.verdict == "pass", f"seed {seed}: {check.message}"


@pytest.mark.parametrize("size", [0.0, 0.05, 0.1])
def test_a_history_that_improves_to_the_end_is_told(size: float) -> None:
    for seed in range(20):
        assert has_converged(noisy(decay(STEPS, 1.0), size, seed)).verdict == "warn", f"seed {seed}"


def test_pure_noise_rarely_raises_an_alarm() -> None:
    """One of 200 expected (99 % confidence, one side), whatever its level and its number of steps."""
    alarms = [
        has_converged(noisy(np.zeros(steps), 3.0, seed)).verdict == "warn"
        for steps in (FEWEST_STEPS, STEPS)
        for seed in range(300)
    ]
    assert sum(alarms) <= 9


def test_a_fall_below_the_noise_is_none() -> None:
    check = has_converged(noisy(decay(STEPS, 1.0), 5.0, 0))
    assert check.verdict == "pass"
    assert check.figures["fall_low"] < 0


def test_a_fall_that_hardly_matters_is_none() -> None:
    """Without noise every fall is significant; one that is small beside the whole is not worth a step."""
    losses = np.concatenate([np.linspace(10, 0, 50), np.linspace(0, -0.1, 250)])
    check = has_converged(list(losses))
    assert check.figures["fall_low"] > 0
    assert check.figures["fall"] < LEAST_SHARE * check.figures["whole_fall"]
    assert check.verdict == "pass"


def test_a_loss_that_rises_has_no_fall() -> None:
    assert has_converged(list(np.linspace(0, 1, 100))).verdict == "pass"


def test_a_loss_that_rose_and_falls_again_is_told() -> None:
    check = has_converged([*np.linspace(0, 5, 80), *np.linspace(5, 3, 20)])
    assert check.verdict == "warn"


@pytest.mark.parametrize("count", [0, 1, FEWEST_STEPS - 1])
def test_a_short_history_says_nothing(count: int) -> None:
    check = has_converged([float(-step) for step in range(count)])
    assert check.verdict == "not-run"
    assert check.message == f"{count} steps were recorded, expected at least {FEWEST_STEPS}"


def test_losses_that_are_not_finite_say_nothing() -> None:
    check = has_converged([math.nan] * 100)
    assert (check.verdict, check.figures) == ("not-run", {})


def test_the_size_of_the_noise_hardly_depends_on_a_trend() -> None:
    values = np.random.default_rng(0).standard_normal(4000)
    assert noise(values) == pytest.approx(1, abs=0.05)
    assert noise(values + np.linspace(0, 100, 4000)) == pytest.approx(1, abs=0.05)
