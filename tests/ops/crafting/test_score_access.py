"""What a score-based attack may see, and a network with another one's gradient."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.bpda import with_gradient_of
from qpatchbench.ops.crafting.score_access import Scores


def test_scores_count_images_and_leave_no_graph() -> None:
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    scores, images = Scores(layer), torch.rand(5, 3, 2, 2)
    logits = scores(images)
    assert torch.equal(logits, layer(images).detach())
    assert not logits.requires_grad
    scores(images[:2])
    assert scores.queries == 7


def test_scores_refuse_a_gradient_and_broken_logits() -> None:
    with pytest.raises(AttackError, match="require a gradient: it may see logits only"):
        Scores(lambda images: images.flatten(1))(torch.rand(1, 3, 2, 2, requires_grad=True))
    with pytest.raises(AttackError, match="not finite"):
        Scores(lambda images: images.flatten(1) / 0 * 0)(torch.zeros(1, 3, 2, 2))


def test_the_answer_is_the_networks_and_the_gradient_the_surrogates() -> None:
    images = torch.rand(4, 3, 2, 2, requires_grad=True)

    def rounded(inputs: torch.Tensor) -> torch.Tensor:
        return (inputs * 3).round().flatten(1) * 0.1

    def smooth(inputs: torch.Tensor) -> torch.Tensor:
        return (inputs * 3).square().flatten(1)

    both = with_gradient_of(rounded, smooth)(images)
    assert torch.equal(both.detach(), rounded(images.detach()))
    (found,) = torch.autograd.grad(both.sum(), images)
    assert torch.allclose(found, 18 * images.detach())
    assert rounded(images).requires_grad, "rounding has a gradient, and it is zero everywhere"
    assert torch.autograd.grad(rounded(images).sum(), images)[0].eq(0).all()
