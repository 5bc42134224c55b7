"""Any-precision networks (Yu et al. 2021, arXiv 1911.07346, section 3): all bit-widths at once, on clean images.

Every step runs the widths from the highest to the lowest. The highest learns the labels; each other one the softmax of
the next higher width, through which no gradient flows (recursive distillation, as the authors' code does it). One
optimiser step follows. Without attack or patches, it separates what many widths on one set of weights do to robustness
from what a defense adds.

Deviations: widths and fake quantizers are the suite's (theirs are those of DoReFa, with one BatchNorm per width, as
here by default), and so is the optimiser (SGD; they use Adam). Their code adds up the losses of n widths; the default
here is the mean, at which a learning rate means the same as in `qat`: with SGD the sum is n times that rate.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.types import Losses


class AnyPrecision(Defense):
    """Joint training of all active bit-widths, the higher ones teaching the lower ones."""

    distillation: Literal["recursive", "highest", "none"] = Field(
        default="recursive",
        description="what a lower width learns: the softmax of the next higher width, of the highest one, or labels",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="how the losses of the bit-widths are put together; the authors' code sums"
    )

    def baseline(self) -> Defense:
        """No width teaches another."""
        return self.model_copy(update={"distillation": "none", "reduction": "mean"})

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy with the labels as `clean` and with softmaxes as `distillation`; parts of one mean or sum."""
        cross_entropy = torch.nn.functional.cross_entropy
        hard, soft = [], []
        taught: torch.Tensor | None = None
        for bits in sorted(step.bits, reverse=True):
            logits = network.at(bits)(batch.images)
            if taught is None or self.distillation == "none":
                hard.append(cross_entropy(logits, batch.labels))
            else:
                soft.append(cross_entropy(logits, taught))
            if taught is None or self.distillation == "recursive":
                taught = logits.detach().softmax(dim=1)
        share = len(step.bits) if self.reduction == "mean" else 1
        terms = {"clean": hard, "distillation": soft}
        return {name: torch.stack(parts).sum() / share for name, parts in terms.items() if parts}
