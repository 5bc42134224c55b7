"""The suites of the protocol: what they say of sharing networks holds, at every scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.suite.file.load import load_suite
from qpatchbench.suite.file.schema import Suite

PROTOCOL = Path(__file__).parents[2] / "suites" / "protocol"


COMPANIONS = (
    "cifar_all_images",
    "cifar_architectures",
    "cifar_audit",
    "cifar_costs",
    "cifar_patches",
    "cifar_strength",
    "cifar_worst_case",
)


@pytest.mark.parametrize("scale", [None, "gpu", "cpu"])
@pytest.mark.parametrize("name", COMPANIONS)
def test_networks_are_those_of_the_protocol(name: str, scale: str | None) -> None:
    expect_shared(load_suite(PROTOCOL / "cifar.yaml", scale=scale), load_suite(PROTOCOL / f"{name}.yaml", scale=scale))


def test_the_sample_of_the_worst_case_uses_the_networks_of_the_gpu() -> None:
    sample = load_suite(PROTOCOL / "cifar_worst_case.yaml", scale="sample")
    expect_shared(load_suite(PROTOCOL / "cifar.yaml", scale="gpu"), sample)


@pytest.mark.parametrize(("scale", "factor"), [("half", 0.5), ("twice", 2)])
def test_other_lengths_of_fine_tuning_differ_in_nothing_else(scale: str, factor: float) -> None:
    whole = load_suite(PROTOCOL / "cifar.yaml", scale="gpu")
    part = load_suite(PROTOCOL / "cifar_training.yaml", scale=scale)
    assert part.finetuning is not None
    assert whole.finetuning is not None
    assert part.finetuning.epochs == factor * whole.finetuning.epochs
    expect_shared(whole, part.model_copy(update={"finetuning": whole.finetuning}))
    assert part.pool == whole.pool


def expect_shared(whole: Suite, part: Suite) -> None:
    """Every network of `part` is one that `whole` trains, from the same images and patches."""
    assert set(whole.models) <= set(part.models)
    assert part.seeds
    assert set(part.seeds) <= set(whole.seeds)
    for section in ("dataset", "training", "finetuning", "quantizers"):
        assert getattr(part, section) == getattr(whole, section), section
    assert part.defenses
    assert all(defense in whole.defenses for defense in part.defenses)
    if any(defense.wants_pool for defense in part.defenses):
        assert part.pool is not None
        assert whole.pool is not None
        assert (part.pool.seen, part.pool.repeats) == (whole.pool.seen, whole.pool.repeats)
