"""A defense that breaks a promise is told which one, and what to do."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.errors import PluginError
from qpatchbench.testing import checks_for
from qpatchbench.types import Bits, Losses

SEEN: list[int] = []


class Penalised(Defense):
    """Cross-entropy, and a penalty on large logits; `flaw` breaks one promise."""

    name: str = "penalised"
    weight: float = Field(default=0.1, ge=0, description="of the penalty")
    flaw: str = Field(default="", description="which promise is broken")

    def baseline(self) -> Defense | None:
        """No penalty."""
        return self.model_copy(update={"weight": 0.0})

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Forward and backward at every width."""
        return 1.0 if self.flaw == "cheap" else 3.0 * len(bits)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Both terms."""
        logits = torch.stack([network.at(bits)(batch.images) for bits in step.bits])
        clean = torch.stack([torch.nn.functional.cross_entropy(each, batch.labels) for each in logits]).mean()
        penalty = self.weight * logits.square().mean()
        losses = {"clean": clean, "penalty": penalty}
        return losses if self.flaw in ("", "cheap") else FLAWS[self.flaw](losses, network, batch, logits)


def _global(losses: Losses, *_: Any) -> Losses:  # noqa: ANN401
    return {**losses, "noise": 0 * torch.rand(()) + losses["clean"]}


def _state(losses: Losses, *_: Any) -> Losses:  # noqa: ANN401
    SEEN.append(1)
    return {**losses, "penalty": losses["penalty"] * len(SEEN)}


def _writes(losses: Losses, network: Any, batch: Batch, *_: Any) -> Losses:  # noqa: ANN401
    batch.images.clamp_(0.1, 0.9)
    return losses


def _eval(losses: Losses, network: Any, *_: Any) -> Losses:  # noqa: ANN401
    network.module.eval()
    return losses


def _trains_inside(losses: Losses, network: Any, batch: Batch, *_: Any) -> Losses:  # noqa: ANN401
    with network.evaluating():
        network.module.train()
        network.forward(batch.images)
    return losses


def _single(losses: Losses, network: Any, batch: Batch, *_: Any) -> Losses:  # noqa: ANN401
    return {**losses, "penalty": losses["penalty"] + (batch.images.flatten(1) @ torch.ones(432, 1)).mean() * 0}


def _curvature(losses: Losses, network: Any, batch: Batch, *_: Any) -> Losses:  # noqa: ANN401
    images = batch.images.clone().requires_grad_()
    logits = network.at(Bits(8, 8))(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images, create_graph=True)
    return {**losses, "penalty": gradient.square().mean()}


FLAWS: dict[str, Any] = {
    "detached": lambda losses, *_: {name: term.detach() for name, term in losses.items()},
    "not finite": lambda losses, *_: {**losses, "penalty": losses["penalty"] / 0},
    "per image": lambda losses, network, batch, logits: {"clean": logits.mean(dim=(0, 2))},
    "one weight": lambda losses, network, *_: {"clean": network.module.head.bias.sum()},
    "global": _global,
    "state": _state,
    "writes": _writes,
    "eval": _eval,
    "trains inside": _trains_inside,
    "single": _single,
    "curvature": _curvature,
    "never zero": lambda losses, network, batch, logits: {**losses, "other": 0.1 * logits.square().mean()},
}
CHECKS = {check.name: check for check in checks_for(Penalised())}


@pytest.mark.parametrize(
    ("flaw", "check", "message"),
    [
        ("detached", "the_loss_is_finite_and_learnable", "a loss with a graph at .* bits; do not detach it"),
        ("not finite", "the_loss_is_finite_and_learnable", "a finite loss term 'penalty' at 32, 8, 4 bits; found inf"),
        ("per image", "the_loss_is_finite_and_learnable", r"a scalar as loss term 'clean'; take the mean; found"),
        ("one weight", "the_loss_is_finite_and_learnable", "a gradient for every weight .* found none for .*head"),
        ("global", "no_global_generator_moves", r"torch's global generator untouched; draw from step.draws\(role\)"),
        ("state", "the_step_alone_decides", r"keep no state, draw from step.draws\(role\)"),
        ("state", "a_resumed_training_ends_the_same", "a resumed training that ends with the same bits; keep no state"),
        ("writes", "inputs_are_left_alone", "the batch as it was; copy before writing"),
        ("eval", "the_network_is_left_as_it_was", r"use `with network.evaluating\(\):`; found eval mode"),
        ("trains inside", "the_network_is_left_as_it_was", "never call train.. there; .* of .*running_mean"),
        ("cheap", "the_declared_cost_is_true", "passes.bits. of about 9.0 at 32, 8, 4 bits, .*; found 1.0 declared"),
        (
            "curvature",
            "what_is_differentiated_twice_is_observed",
            r"network.observed\(bits, images, \(\)\) for a gradient that is differentiated again; found network.at",
        ),
        ("single", "double_precision_works", "tensors made like the images"),
        ("never zero", "penalties_at_zero_give_the_baseline", "skip a term whose weight is 0"),
    ],
)  # fmt: skip
def test_a_flaw_is_caught(flaw: str, check: str, message: str) -> None:
    SEEN.clear()
    CHECKS[check](Penalised())  # without the flaw it passes
    with torch.random.fork_rng(devices=[]), pytest.raises(PluginError, match=message):
        CHECKS[check](Penalised(flaw=flaw))


class Grouping(Penalised):
    """Forgets a width, and a curriculum that drops one."""

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        return (bits[:2],)

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        return bits if epoch_fraction < 0.5 else bits[:1]


def test_widths_that_are_lost_are_named() -> None:
    with pytest.raises(PluginError, match=r"every one of 32, 8, 4 in exactly one group; found \[\['32', '8'\]\]"):
        CHECKS["bit_groups_are_a_partition"](Grouping())
    with pytest.raises(PluginError, match="active widths before after 50 % of the training; found without 8"):
        CHECKS["active_bits_grow"](Grouping())


class Twice(Penalised):
    """Is of no use without combined()."""

    name: str = "twice"

    def partners(self, bits: Bits) -> tuple[Any, ...]:
        return (bits, bits)


def test_partners_without_a_combination_are_refused() -> None:
    with pytest.raises(PluginError, match="combined.networks.: one network out of its own and its partners"):
        CHECKS["partners_can_be_combined"](Twice())


class Undescribed(Penalised):
    """Breaks what all kinds must keep."""

    version: ClassVar[int] = 0
    secret: float = 1.0


class Loose(Penalised, extra="ignore", frozen=False):
    """Takes any field, and any assignment."""


@pytest.mark.parametrize(
    ("component", "check", "message"),
    [
        (Undescribed, "fields_are_described", r'Field\(\.\.\., description="\.\.\."\) for the field \'secret\''),
        (Undescribed, "name_and_version_are_given", "version: ClassVar.int. of at least 1; found 0"),
        (Undescribed, "a_source_is_named", 'reference: ClassVar.str. = "Authors year'),
        (Loose, "unknown_fields_are_refused", 'extra="forbid"; .* found an unknown field that is accepted'),
        (Loose, "fields_are_frozen", "keep the model_config of Component; found an assignment"),
    ],
)
def test_what_all_kinds_must_keep(component: type[Penalised], check: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        CHECKS[check](component())
