"""Quantization-aware training with fake quantizers and a straight-through estimator (Krishnamoorthi 2018).

Jointly over a set of bit-widths on one set of weights, every step averages the cross-entropy of all of them, as in
Yu et al. 2021 (Any-Precision DNNs, arXiv 1911.07346) without distillation; or separately, one network per bit-width.
"""

from __future__ import annotations

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.types import Bits, Losses


class QuantizationAwareTraining(Defense):
    """Plain QAT: the reference that every quantization-aware defense is compared with."""

    joint: bool = Field(
        default=True,
        description="true: all bit-widths share one set of weights; false: one network per bit-width",
    )

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """One group of all bits, or one group each."""
        return (bits,) if self.joint else tuple((width,) for width in bits)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy averaged over the active bit-widths."""
        terms = [torch.nn.functional.cross_entropy(network.at(bits)(batch.images), batch.labels) for bits in step.bits]
        return {"clean": torch.stack(terms).mean()}
