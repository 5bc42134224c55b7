"""A universal patch on several networks at once: the adaptive attack on what only separates networks from each other.

Brown et al. 2017 (arXiv 1712.09665), section 3, train one patch on five architectures, and try it on a sixth. Here the
networks are those that the suite's `transfer.sources` names: `ensemble`, all bit-widths of one backbone, against which
a defense that makes bit-widths disagree has to hold; or `other-models`, every architecture but the target's.

    mean     p* = argmin_p  (1/M) sum_m E[loss_m(p)]      the average of the paper's networks
    worst    p* = argmin_p  max_m E[loss_m(p)]            the min-max of Wang et al. 2021 (arXiv 1906.03563)

`worst` follows the gradient of the network that resists most at this step, estimated on the step's images; it favours
a patch that works everywhere over one that is strong on the networks that are easy to fool. Everything else is GAP.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.gap import Gap
from qpatchbench.ops.crafting.loops import mean_of_networks


class Ensemble(Gap):
    """GAP on the mean, or the worst, of several networks."""

    sources: ClassVar[Literal["one", "any", "several"]] = "several"

    weighting: Literal["mean", "worst"] = Field(
        default="mean", description="minimise the mean loss over the networks, or that of the network that resists most"
    )

    def weigh(self, losses: torch.Tensor) -> torch.Tensor:
        """Mean losses (networks, goals) -> (goals,)."""
        return mean_of_networks(losses) if self.weighting == "mean" else losses.amax(dim=0)
