"""No defense, cross-entropy on the float network: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.types import FLOAT, Losses


class NoDefense(Defense):
    """Float training. Deploy it with fp, ptq or dynamic."""

    quantization_aware: ClassVar[bool] = False
    expected_failures: ClassVar[Mapping[str, str]] = {
        "a_source_is_named": "ordinary training; there is nothing to cite"
    }

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Mean cross-entropy at 32 bits."""
        return {"clean": torch.nn.functional.cross_entropy(network.at(FLOAT)(batch.images), batch.labels)}
