"""The suites of the protocol: what they say of sharing networks holds, at every scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.suite.file.load import load_suite

PROTOCOL = Path(__file__).parents[2] / "suites" / "protocol"


@pytest.mark.parametrize("scale", [None, "gpu", "cpu"])
@pytest.mark.parametrize(
    "name", ["cifar_all_images", "cifar_architectures", "cifar_costs", "cifar_patches", "cifar_worst_case"]
)
def test_networks_are_those_of_the_protocol(name: str, scale: str | None) -> None:
    whole, part = (load_suite(PROTOCOL / f"{each}.yaml", scale=scale) for each in ("cifar", name))
    assert set(whole.models) <= set(part.models)
    for section in ("dataset", "training", "finetuning", "quantizers", "seeds"):
        assert getattr(part, section) == getattr(whole, section), section
    assert part.defenses
    assert all(defense in whole.defenses for defense in part.defenses)
    if any(defense.wants_pool for defense in part.defenses):
        assert part.pool is not None
        assert whole.pool is not None
        assert (part.pool.seen, part.pool.repeats) == (whole.pool.seen, whole.pool.repeats)
