"""A loss that is differentiated at once has the value and the gradient of one that waits."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from qpatchbench.ops.training.early_backward import backward_now


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False))


def gradients(early: bool) -> tuple[float, list[torch.Tensor | None]]:
    module, images = network(), torch.ones(5, 3)
    first, second = module(images).square().mean(), module(2 * images).exp().mean()
    losses = [backward_now(first) if early else first, second]
    total = 0.7 * torch.stack(losses).mean()
    torch.autograd.backward(total)
    return float(total.detach()), [parameter.grad for parameter in module.parameters()]


def test_value_and_gradient_stay() -> None:
    (value, expected), (other, found) = gradients(False), gradients(True)
    assert value == other
    assert [gradient is None for gradient in found] == [False] * 4 + [True] * 2, "frozen ones are no leaves"
    for ours, theirs in zip(found[:4], expected[:4], strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.allclose(ours, theirs)


def test_nothing_accumulates_before_the_backward_pass() -> None:
    module = network()
    kept = backward_now(module(torch.ones(1, 3)).sum())
    assert [parameter.grad for parameter in module.parameters()] == [None] * 6
    torch.autograd.backward(kept)
    assert all(parameter.grad is not None for parameter in module[0].parameters())


def test_the_graph_is_gone() -> None:
    module = network()
    hidden = module[0](torch.ones(1, 3))
    seen = weakref.ref(hidden)
    kept = backward_now(module[1:](hidden).sum())
    del hidden
    assert seen() is None
    assert kept.requires_grad


def test_a_loss_without_a_graph_is_itself() -> None:
    loss = torch.tensor(3.0)
    assert backward_now(loss) is loss


def test_a_second_derivative_is_an_error() -> None:
    leaf = torch.tensor(2.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        backward_now(leaf**3), leaf, torch.tensor(1.0, requires_grad=True), create_graph=True
    )
    assert float(gradient.detach()) == 12
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient)
