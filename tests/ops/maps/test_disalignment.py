"""Penalties on pairs of views: one at a time, over chance, one-sided."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from qpatchbench.ops.maps.disalignment import Measure, pair_similarities
from qpatchbench.ops.maps.similarity import cosine, prepared, soft_dice, soft_edges, soft_hog

MEASURE = Measure(alpha=0.5, beta=1.0, sharpness=100.0, quantile=0.85, kappa=10.0)


def views(count: int, side: int = 8, images: int = 40) -> list[torch.Tensor]:
    """Of which neighbours have something in common."""
    draws = torch.Generator().manual_seed(0)
    own = [torch.randn(images, 1, side, side, generator=draws) for _ in range(count + 1)]
    return [prepared(one + other) for one, other in zip(own, own[1:], strict=False)]


@pytest.mark.parametrize("measure", [MEASURE, Measure(0.3, 0.7, 20.0, 0.5, 3.0), MEASURE._replace(beta=0.0)])
def test_pairs_are_in_order_and_each_is_what_it_is_alone(measure: Measure) -> None:
    maps = views(4)
    found = pair_similarities(maps, measure)
    assert found.shape == (6,)
    for (one, other), value in zip(combinations(maps, 2), found.tolist(), strict=True):
        cut = [soft_edges(each, measure.sharpness, measure.quantile) for each in (one, other)]
        texture = cosine(soft_hog(one, measure.kappa), soft_hog(other, measure.kappa)).mean()
        assert value == pytest.approx(float(measure.alpha * soft_dice(*cut).mean() + measure.beta * texture), rel=1e-5)
        assert torch.allclose(pair_similarities([one, other], measure), torch.tensor([value]), atol=1e-6)
        assert torch.allclose(pair_similarities([other, one], measure), torch.tensor([value]), atol=1e-6)
    assert 0 <= float(found.min()) <= float(found.max()) <= measure.alpha + measure.beta


@pytest.mark.parametrize("side", [8, 12, 32])
def test_above_chance_strangers_count_nothing(side: int) -> None:
    draws = torch.Generator().manual_seed(1)
    strangers = [prepared(torch.randn(300, 1, side, side, generator=draws)) for _ in range(2)]
    plain = float(pair_similarities(strangers, MEASURE))
    floored = MEASURE._replace(above_chance=True)
    assert plain > 0.8
    assert float(pair_similarities(strangers, floored)) < 0.01
    twins = [strangers[0]] * 2
    above = float(pair_similarities(twins, MEASURE)) - plain
    assert float(pair_similarities(twins, floored)) == pytest.approx(above, abs=0.02)
    assert float(pair_similarities(twins, floored)) == float(pair_similarities(twins, floored))


def test_a_constant_first_view_changes_gradients_only() -> None:
    gradients, values = [], []
    for constant in (False, True):
        maps = [view.clone().requires_grad_() for view in views(3)]
        found = pair_similarities(maps, MEASURE._replace(first_constant=constant)).sum()
        torch.autograd.backward(found)
        values.append(float(found.detach()))
        gradients.append([view.grad for view in maps])
    assert values[0] == values[1]
    jointly, alone = gradients
    assert jointly[0] is not None
    assert bool(jointly[0].any())
    assert alone[0] is None or not alone[0].any()
    assert jointly[2] is not None
    assert alone[2] is not None
    assert torch.allclose(jointly[2], alone[2])


def test_small_maps_are_an_error() -> None:
    with pytest.raises(ValueError, match="found 4 x 4"):
        pair_similarities([torch.zeros(2, 4, 4)] * 2, MEASURE)
