"""Passes are counted where they happen, and change nothing."""

from __future__ import annotations

import torch

from qpatchbench.ops.passes import counted_passes


def test_passes_are_counted_while_the_context_lasts_and_change_nothing() -> None:
    network = torch.nn.Linear(3, 2).requires_grad_(False)
    images = torch.rand(5, 3)

    def gradient() -> torch.Tensor:
        shown = images.clone().requires_grad_()
        return torch.autograd.grad(network(shown).square().sum(), shown)[0]

    before = gradient()
    with counted_passes([network, network]) as passes:
        assert torch.equal(gradient(), before)
        with torch.no_grad():
            network(images[:2])
            network(images.clone().requires_grad_())
    gradient()
    assert (passes.forward, passes.backward) == (5 + 2 + 5, 5)
    assert not network._forward_hooks


def test_the_gradient_of_what_lies_before_the_images_counts_too() -> None:
    """A texture's gradient passes the images that it was pasted on."""
    network = torch.nn.Linear(3, 2).requires_grad_(False)
    texture = torch.rand(1, 3, requires_grad=True)
    with counted_passes([network]) as passes:
        torch.autograd.grad(network(texture.expand(4, -1)).sum(), texture)
        torch.autograd.grad(network(texture * torch.rand(7, 1)).sum(), texture)
    assert (passes.forward, passes.backward) == (11, 11)
