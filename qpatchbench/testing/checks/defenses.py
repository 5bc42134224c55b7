"""Promises of every defense, one function each: single steps first, whole trainings last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from qpatchbench.defenses.base import Batch, Defense
from qpatchbench.testing.checks import defense_trainings
from qpatchbench.testing.fixtures.networks_and_images import CLASSES, SIDE
from qpatchbench.testing.fixtures.trainings import BITS, batch_for, groups_of, step_for, switch_for
from qpatchbench.testing.require import DoesNotApplyError, fail, no_global_draws, require
from qpatchbench.types import Bits, Network

PASSES_TOLERANCE = 1.5  # of an estimate


def the_loss_is_finite_and_learnable(defense: Defense, seed: int) -> None:
    """Named, finite scalars with a gradient for every weight, at every set of bit-widths."""
    for bits in groups_of(defense):
        network, where = switch_for(defense, bits, seed), f"at {', '.join(map(str, bits))} bits"
        losses = defense.loss(network, batch_for(seed), step_for(defense, bits, seed))
        require(bool(losses) and all(losses), defense, f"named loss terms {where}", sorted(losses))
        for name, term in losses.items():
            require(term.shape == (), defense, f"a scalar as loss term {name!r}; take the mean", tuple(term.shape))
            require(bool(torch.isfinite(term)), defense, f"a finite loss term {name!r} {where}", float(term.detach()))
        total = torch.stack(list(losses.values())).sum()
        require(total.requires_grad, defense, f"a loss with a graph {where}; do not detach it", "no graph")
        torch.autograd.backward(total)
        weights = {n: p for n, p in network.module.named_parameters() if n.endswith("weight") and p.dim() > 1}
        idle = [n for n, p in weights.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        require(not idle, defense, f"a gradient for every weight {where}", f"none for {', '.join(idle)}")
        broken = [n for n, p in weights.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
        require(not broken, defense, f"finite gradients {where}", f"NaN or infinity in {', '.join(broken)}")


def the_step_alone_decides(defense: Defense, seed: int) -> None:
    """The same weights, batch and step give the same loss bit for bit, whatever was asked before: no hidden state."""
    bits = groups_of(defense)[-1]
    network = switch_for(defense, bits, seed)
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    found = []
    for index in (3, 7, 3):
        network.module.load_state_dict(state)
        losses = defense.loss(network, batch_for(seed), step_for(defense, bits, seed, index))
        found.append({name: float(term.detach()) for name, term in losses.items()})
    expected = "equal losses for equal weights, batch and step; keep no state, draw from step.draws(role)"
    require(found[0] == found[2], defense, expected, f"{found[0]}, and later {found[2]}")


def no_global_generator_moves(defense: Defense, seed: int) -> None:
    """The global generators of torch, numpy and Python stay where they are."""
    bits = groups_of(defense)[-1]
    network, batch, step = switch_for(defense, bits, seed), batch_for(seed), step_for(defense, bits, seed)
    with no_global_draws(defense, "draw from step.draws(role)"):
        torch.autograd.backward(torch.stack(list(defense.loss(network, batch, step).values())).sum())
        defense.after_backward(list(network.module.parameters()), step)


def inputs_are_left_alone(defense: Defense, seed: int) -> None:
    """Images, labels and weights are after `loss` what they were before; gradients are the loop's business."""
    bits = groups_of(defense)[-1]
    network, batch = switch_for(defense, bits, seed), batch_for(seed)
    pixels, labels = batch.images.clone(), batch.labels.clone()
    weights = {name: value.detach().clone() for name, value in network.module.named_parameters()}
    defense.loss(network, batch, step_for(defense, bits, seed))
    untouched = torch.equal(batch.images, pixels) and torch.equal(batch.labels, labels)
    require(untouched, defense, "the batch as it was; copy before writing", "changed images or labels")
    graded = batch.images.requires_grad
    require(not graded, defense, "images without requires_grad; use images.detach().requires_grad_()", "requires_grad")
    for name, value in network.module.named_parameters():
        require(torch.equal(value.detach(), weights[name]), defense, f"{name} as it was", "another value")
        expected = f"no gradient in {name} before the loop asks for one; use torch.autograd.grad"
        require(value.grad is None, defense, expected, "an accumulated gradient")


def the_network_is_left_as_it_was(defense: Defense, seed: int) -> None:
    """Training mode and no hooks afterwards; nothing that is measured moves inside `network.evaluating()`."""
    bits = groups_of(defense)[-1]
    network = switch_for(defense, bits, seed)
    parts = [name for name, _ in network.module.named_modules()]
    defense.loss(network, batch_for(seed), step_for(defense, bits, seed))
    modes = [name or "the network" for name, part in network.module.named_modules() if not part.training]
    expected = "training mode after loss(); use `with network.evaluating():`"
    require(not modes, defense, expected, f"eval mode of {', '.join(modes)}")
    hooked = [n for n, p in network.module.named_modules() if p._forward_hooks or p._forward_pre_hooks]
    require(not hooked, defense, "no hooks left on the network; remove them", f"some on {', '.join(hooked)}")
    added = sorted({name for name, _ in network.module.named_modules()} ^ set(parts))
    require(not added, defense, "the modules of the network as they were", f"others: {', '.join(added)}")
    moved = sorted(set(getattr(network, "moved", ())))
    expected = "BatchNorm statistics and observers as they were inside network.evaluating(); never call train() there"
    require(not moved, defense, expected, f"other values of {', '.join(moved)}")


def bit_groups_are_a_partition(defense: Defense, seed: int) -> None:
    """Every bit-width is in exactly one set of widths that share weights."""
    if not defense.quantization_aware:
        raise DoesNotApplyError("it trains one float network")
    groups = defense.bit_groups(BITS)
    flat = sorted(bits for group in groups for bits in group)
    expected = f"every one of {', '.join(map(str, BITS))} in exactly one group"
    require(flat == sorted(BITS), defense, expected, [[str(bits) for bits in group] for group in groups])


def active_bits_grow(defense: Defense, seed: int) -> None:
    """A curriculum adds bit-widths, drops none and ends with all."""
    for bits in groups_of(defense):
        seen: set[Bits] = set()
        for index in range(101):
            active = defense.active_bits(index / 100, bits)
            where = f"after {index} % of the training"
            require(bool(active) and set(active) <= set(bits), defense, f"some of {_words(bits)} {where}", active)
            dropped = seen - set(active)
            require(not dropped, defense, f"all of the active widths before {where}", f"without {_words(dropped)}")
            seen = set(active)
        require(seen == set(bits), defense, f"{_words(bits)} at the end", _words(seen))


def the_declared_cost_is_true(defense: Defense, seed: int) -> str:
    """`passes` is no less than what a step really runs, counted by hooks: forward 1, forward and backward 3."""
    bits = groups_of(defense)[0]
    declared = defense.passes(bits)
    require(declared > 0, defense, "passes(bits) above 0", declared)
    network, batch, counted = switch_for(defense, bits, seed), batch_for(seed), 0

    def count(module: nn.Module, images: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        counted += len(output) * (3 if output.requires_grad else 1)

    fractions = (0.1, 0.35, 0.55, 0.9)
    with network.module.register_forward_hook(count):
        for index, fraction in enumerate(fractions):
            defense.loss(network, batch, step_for(defense, bits, seed, index, fraction))
    per_image = counted / len(batch.labels) / len(fractions)
    expected = f"passes(bits) of about {per_image:.1f} at {_words(bits)} bits, counted in {len(fractions)} steps"
    require(declared * PASSES_TOLERANCE >= per_image, defense, expected, f"{declared:.1f} declared")
    return f"{declared:.1f} passes declared, {per_image:.1f} counted"


def what_is_differentiated_twice_is_observed(defense: Defense, seed: int) -> None:
    """A gradient that is differentiated again is one of `network.observed`; that of `network.at` may be compiled."""
    for bits in groups_of(defense):
        network = switch_for(defense, bits, seed)
        network.forward = _answering_once(network.module)
        losses = defense.loss(network, batch_for(seed), step_for(defense, bits, seed))
        try:
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
        except RuntimeError as error:
            if "once_differentiable" not in str(error):
                raise
            expected = "network.observed(bits, images, ()) for a gradient that is differentiated again"
            fail(defense, expected, "network.at(bits)")


def _answering_once(module: nn.Module) -> Network:
    """The network as a compiled one answers: with a gradient that cannot be differentiated again."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = _Once.apply(module(images))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return logits

    return answer


class _Once(torch.autograd.Function):
    """The same values, with a gradient that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: torch.Tensor) -> torch.Tensor:
        """The same."""
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> torch.Tensor:
        """The same."""
        return gradients[0]


def double_precision_works(defense: Defense, seed: int) -> None:
    """The dtype of the images is followed: float64 images and weights give a float64 loss."""
    bits = groups_of(defense)[-1]
    network, batch = switch_for(defense, bits, seed), batch_for(seed)
    network.module.double()
    try:
        losses = defense.loss(network, Batch(batch.images.double(), batch.labels), step_for(defense, bits, seed))
    except RuntimeError as error:
        fail(defense, "tensors made like the images: images.new_zeros(..), .to(images)", error)
    kinds = {name: term.dtype for name, term in losses.items()}
    wrong = {name: str(kind) for name, kind in kinds.items() if kind != torch.float64}
    require(not wrong, defense, "float64 losses of float64 images", wrong)


def partners_can_be_combined(defense: Defense, seed: int) -> None:
    """An ensemble says how its members answer together; what is no ensemble has none."""
    partners = defense.partners(Bits.parse(4))
    if not partners:
        raise DoesNotApplyError("it is deployed as one network")
    members = [nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES)) for _ in range(1 + len(partners))]
    with contextlib.suppress(NotImplementedError):
        logits = defense.combined(members)(batch_for(seed, 5).images)
        require(tuple(logits.shape) == (5, CLASSES), defense, f"logits {(5, CLASSES)}", tuple(logits.shape))
        return
    fail(defense, "combined(networks): one network out of its own and its partners", "none")


def _words(bits: object) -> str:
    return ", ".join(map(str, bits))  # type: ignore[call-overload]  # of bits


CHECKS: tuple[Callable[[Defense, int], str | None], ...] = (
    the_loss_is_finite_and_learnable,
    the_step_alone_decides,
    no_global_generator_moves,
    inputs_are_left_alone,
    the_network_is_left_as_it_was,
    bit_groups_are_a_partition,
    active_bits_grow,
    the_declared_cost_is_true,
    what_is_differentiated_twice_is_observed,
    double_precision_works,
    partners_can_be_combined,
    *defense_trainings.CHECKS,
)
