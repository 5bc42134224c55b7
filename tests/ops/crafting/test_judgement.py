"""What makes one patch better than another, and that a patch is judged as it will be stored."""

from __future__ import annotations

import itertools

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.judgement import Found, Judgement, judged_patches
from qpatchbench.ops.crafting.losses import logit_difference
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import round_to_8_bit


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_success_counts_first_and_the_loss_second() -> None:
    cases = list(itertools.product([False, True], [-1.0, 0.0, 2.0]))
    for (won, loss), (other_won, other_loss) in itertools.product(cases, cases):
        own, other = (
            Judgement(torch.tensor([value]), torch.tensor([success]))
            for success, value in ((won, loss), (other_won, other_loss))
        )
        assert bool(own.better_than(other)) == ((not won, loss) < (not other_won, other_loss))
    worst = Judgement.worst(3, torch.device("cpu"))
    assert Judgement(torch.full((3,), 1e30), torch.zeros(3, dtype=torch.bool)).better_than(worst).all()
    assert not worst.better_than(worst).any()


def test_a_patch_is_judged_at_8_bits_to_the_bit() -> None:
    """Logits are those of the rounded texture exactly, and its gradient reaches the unrounded one."""
    weight = torch.randn(3, 3 * 36, generator=draws(0))
    seen: list[torch.Tensor] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach())
        return (images.flatten(1) @ weight.T).square()

    images, labels, targets = torch.rand(50, 3, 6, 6, generator=draws(1)), torch.arange(50) % 3, torch.full((50,), -1)
    textures = torch.rand(50, 3, 2, 2, generator=draws(2))
    textures[0], textures[1], textures[2] = 0.0, 1.0, 1e-4  # the ends, and a value that rounds to 0
    textures.requires_grad_()
    corner = upright(torch.zeros(50, dtype=torch.int64), torch.ones(50, dtype=torch.int64))
    judgement = judged_patches(network, logit_difference, images, labels, targets, textures, corner)
    rounded = round_to_8_bit(textures.detach()).requires_grad_()
    assert torch.equal(seen[0][:, :, :2, 1:3], rounded)
    again = judged_patches(network, logit_difference, images, labels, targets, rounded, corner)
    assert torch.equal(judgement.losses, again.losses)
    through = torch.autograd.grad(judgement.losses.sum(), textures)[0]
    assert torch.equal(through, torch.autograd.grad(again.losses.sum(), rounded)[0])
    assert through.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_float32_whatever_the_network_computes_in(dtype: torch.dtype) -> None:
    corner = upright(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    judgement = judged_patches(
        lambda x: x.flatten(1)[:, :3].to(dtype), logit_difference, torch.rand(2, 3, 4, 4, generator=draws(3)),
        torch.tensor([0, 1]), torch.tensor([-1, 2]), torch.rand(2, 3, 2, 2, generator=draws(4)), corner,
    )  # fmt: skip
    assert judgement.losses.dtype == torch.float32


def test_runs_of_some_images_join_where_they_are_better() -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    found = Found(
        torch.zeros(4, 3, 1, 1),
        upright(zeros, zeros),
        Judgement(torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([True, False, False, False])),
    )
    index = torch.tensor([3, 1, 0])
    run = Found(
        torch.ones(3, 3, 1, 1),
        upright(torch.tensor([3, 1, 9]), torch.tensor([5, 6, 9])),
        Judgement(torch.tensor([2.0, 0.5, 0.0]), torch.tensor([True, False, False])),
    )
    both = found.joined(index, run)
    assert both.textures[:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert both.placement.rows.tolist() == [0, 1, 0, 3]
    assert both.placement.columns.tolist() == [0, 6, 0, 5]
    assert both.judgement.losses.tolist() == [1.0, 0.5, 1.0, 2.0]
    assert both.judgement.success.tolist() == [True, False, False, True]
    assert found.textures.eq(0).all(), "what was known is left alone"


def test_losses_that_are_not_finite_are_an_error() -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(AttackError, match="not finite at step 3 of 4"):
            Judgement(torch.tensor([0.0, value]), torch.tensor([True, True])).require_finite("at step 3 of 4")
    Judgement(torch.tensor([0.0, 1e38]), torch.tensor([True, True])).require_finite("at step 3 of 4")
