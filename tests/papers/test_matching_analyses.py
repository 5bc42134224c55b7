"""Costs and similarities of a run beside the published ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qpatchbench.papers.matching import Measured, Missing, SearchedRun
from qpatchbench.papers.matching_analyses import find_cost, find_similarity
from qpatchbench.papers.printed.values import PublishedValue
from tests.papers.test_matching import FULL, folder, number, published

COST = {
    "model": "resnet56", "seed": 0, "reference": "qat", "bits": "32 8 5 4 2", "batch_size": 256,
    "peak_bytes": 3 * 10**9,
}  # fmt: skip
COSTS = (
    {**COST, "defense": "qat", "step_seconds": 0.1, "step_seconds_low": 0.08, "step_seconds_high": 0.125,
     "images_per_second": 2560.0, "relative_time": 1.0, "relative_time_low": 1.0, "relative_time_high": 1.0,
     "relative_memory": 1.0},
    {**COST, "defense": "triqdef", "step_seconds": 0.2, "step_seconds_low": 0.18, "step_seconds_high": 0.24,
     "images_per_second": 1280.0, "relative_time": 2.0, "relative_time_low": 1.9, "relative_time_high": 2.2,
     "relative_memory": 1.5},
)  # fmt: skip


def cost(metric: str) -> PublishedValue:
    return published("triqdef.17", defense="triqdef", dataset="cifar10", metric=metric)


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [
        ("iter_ms", (200, 180, 240)),
        ("images_per_s", (1280, 256 / 0.24, 256 / 0.18)),
        ("time_x", (2, 1.9, 2.2)),
        ("mem_x", (1.5, math.nan, math.nan)),
        ("peak_mem_gb", (3, math.nan, math.nan)),
    ],
)
def test_costs_in_the_published_units(metric: str, numbers: tuple[float, float, float]) -> None:
    found = find_cost(SearchedRun(folder(costs=COSTS)), cost(metric))
    assert isinstance(found, Measured)
    assert (found.value, found.low, found.high) == pytest.approx(numbers, nan_ok=True)
    assert found.departures == ()


def test_runs_of_before_have_no_quartiles_of_ratios() -> None:
    older = [{name: value for name, value in row.items() if "time_" not in name} for row in COSTS]
    found = find_cost(SearchedRun(folder(costs=older)), cost("time_x"))
    assert isinstance(found, Measured)
    assert (found.value, found.low, found.high) == pytest.approx((2, math.nan, math.nan), nan_ok=True)


def test_what_costs_lack_is_named() -> None:
    value = cost("time_x")
    other = {**FULL, "dataset_note": "imagenet"}
    elsewhere = ({**COSTS[1], "model": "resnet20"},)
    assert find_cost(SearchedRun(folder()), value) == Missing("the run has no costs", -1)
    assert find_cost(SearchedRun(folder(costs=COSTS, manifest=other)), value) == Missing(
        "no costs with dataset cifar10; there: imagenet"
    )
    assert find_cost(SearchedRun(folder(costs=elsewhere)), value) == Missing(
        "no row with model resnet56; there: resnet20"
    )
    assert find_cost(SearchedRun(folder(costs=COSTS[:1])), value) == Missing(
        "no row with defense triqdef; there: qat", 1
    )
    slow = tuple({**each, "batch_size": 128, "reference": "triqdef"} for each in COSTS)
    found = find_cost(SearchedRun(folder(costs=slow, manifest={**FULL, "device": "cpu"})), value)
    assert isinstance(found, Measured)
    assert found.departures == (
        "timed on cpu instead of an NVIDIA A100", "batches of 128 instead of 256", "relative to triqdef instead of qat",
    )  # fmt: skip


def test_costs_of_a_network_that_stands_in() -> None:
    smaller = folder(costs=[{**row, "model": "resnet20"} for row in COSTS])
    found = find_cost(SearchedRun(smaller, {"resnet56": "resnet20"}), cost("time_x"))
    assert isinstance(found, Measured)
    assert (found.value, found.departures) == (2, ("architecture: resnet20 instead of resnet56",))


def similarity(layer: str, metric: str, value: float, **facts: object) -> dict[str, Any]:
    return {
        "model": "resnet34", "defense": "qat", "quantization": "qat", "images": "clean", "layer": layer,
        "first_bits": "32", "second_bits": "5", "metric": metric, "value": value, "standard_error": 0.01,
        "n_images": 100,
    } | facts  # fmt: skip


SIMILAR = (
    similarity("conv1", "soft_dice", 0.5),
    similarity("layer2", "soft_dice", 0.6, standard_error=None),
    similarity("input gradient", "cosine", 0.1, images="patched"),
    similarity("input gradient", "cosine", 0.2),
)
IMAGENET = {**FULL, "dataset_note": "imagenet"}


def test_similarities_of_layers_and_of_gradients() -> None:
    run = folder(manifest=IMAGENET, similarity=SIMILAR)
    pair = {"metric": "softdice", "source_bits": "32", "target_bits": "5"}
    first = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L0.conv1", **pair))
    assert isinstance(first, Measured)
    assert (first.value, first.low, first.high) == pytest.approx((0.5, 0.48040036, 0.51959964))
    assert first.departures == ("network, layer and images are not stated",)
    second = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L1.conv1", **pair))
    assert isinstance(second, Measured)
    assert (second.value, math.isnan(second.low), math.isnan(second.high)) == (0.6, True, True)
    third = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L2.conv1", **pair))
    assert third == Missing("no early layer number 3; there: conv1, layer2", 1)
    gradient = find_similarity(run, "triqdef.3", published("triqdef.3", metric="cosine", param_value="fp-5b"))
    assert number(gradient) == 0.2
    other = find_similarity(run, "triqdef.3", published("triqdef.3", metric="cosine", param_value="5b-4b"))
    assert isinstance(other, Missing)
    assert other.reason == "no row with first_bits 5; there: 32"


def test_similarities_of_whatever_network_a_run_has() -> None:
    """The tables name neither data set nor network; ResNets come first."""
    value = published("triqdef.3", metric="cosine", param_value="fp-5b")
    gradients = similarity("input gradient", "cosine", 0.3, model="vgg16")
    other = find_similarity(folder(similarity=[gradients]), "triqdef.3", value)
    assert isinstance(other, Measured)
    assert (other.value, other.row) == (0.3, "vgg16, qat, qat, clean images, input gradient")
    assert other.departures == (
        "network, layer and images are not stated", "dataset: cifar10 instead of imagenet, which is assumed",
    )  # fmt: skip
    assert number(find_similarity(folder(similarity=[gradients, *SIMILAR]), "triqdef.3", value)) == 0.2
