"""EMPIR, ensembles of mixed precision models (Sen, Ravindran, Raghunathan 2020, ICLR, arXiv 2004.10162).

A float network and two of low precision, trained independently, vote; where all disagree the float network decides.

Deviations: the authors give the low-precision members different widths (weights of 2 and 4 bits on CIFAR-10); here
both have the deployed width and differ by their seed, so that a row of 4 bits is made of 4-bit networks. Where a
suite fine-tunes, all members start from the same float weights, which makes them less independent than training
from scratch does. How the authors break ties is not stated; the float member is the most accurate one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Partner, Step, SwitchableNetwork
from qpatchbench.types import FLOAT, Bits, Losses


class Empir(Defense):
    """An ensemble of one float network and two at the deployed width."""

    combination: Literal["vote", "average"] = Field(
        default="vote", description="majority vote, or the mean of the members' probabilities"
    )

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """One network per bit-width."""
        return tuple((width,) for width in bits)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy of one low-precision member."""
        terms = [torch.nn.functional.cross_entropy(network.at(bits)(batch.images), batch.labels) for bits in step.bits]
        return {"clean": torch.stack(terms).mean()}

    def partners(self, bits: Bits) -> tuple[Partner, ...]:
        """A second member of the same width, and the undefended float network, which comes last."""
        return (Partner(bits, seed=1), Partner(FLOAT, seed=0, defended=False))

    def combined(self, networks: Sequence[torch.nn.Module]) -> torch.nn.Module:
        """The vote of the networks, or their mean."""
        from qpatchbench.defenses.voting import AveragingNetwork, VotingNetwork

        return VotingNetwork(networks) if self.combination == "vote" else AveragingNetwork(networks)
