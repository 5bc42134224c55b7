"""AutoPatch: a fixed set of patch attacks with nothing to tune, and per image the worst of them.

In the spirit of AutoAttack (Croce, Hein 2020, arXiv 2003.01690): complementary attacks run one after the other, each on
the images that the ones before left unbroken; images that the network gets wrong when clean are not attacked at all.

    1. gap on the evaluated network                    universal, cheap, no search
    2. ensemble of all bit-widths of the backbone      universal; left out where there is one bit-width only
    3. patch_apgd, cross-entropy                       per image, two starts at each of five places
    4. patch_apgd, margin                              does not saturate on confident networks, which can starve 3
    5. sparse_rs                                       no gradient: what it adds, gradients were hiding

The stages come back with the patch, and the harness flags a network on which the fifth adds much. All patches are
squares of one size; 3, 4 and 5 look for the worst place, and `given` keeps every patch at the suite's places, for
paired comparisons. An image that nothing breaks keeps the patch that left the smallest margin; one that is not attacked
keeps a universal patch, which costs nothing more, and counts on no target. Any number of classes from 2 on will do.
A network without a gradient takes the fifth alone, `autopatch_scores`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from qpatchbench.attacks.base import Attack, GradientAttack
from qpatchbench.attacks.staged.base import BUDGETS, StagedAttack


class AutoPatch(StagedAttack, GradientAttack):
    """The standard evaluation; per image, the first attack of the set that succeeds."""

    wants_siblings: ClassVar[bool] = True
    from_scores: ClassVar[str] = "autopatch_scores"
    version: ClassVar[int] = 3

    def stages(self, siblings: bool) -> Iterator[tuple[Attack, bool]]:
        """The five attacks; the second where there are siblings."""
        budget = BUDGETS[self.effort]
        universal: dict[str, Any] = {"steps": budget.universal_steps}
        search: dict[str, Any] = {"steps": budget.steps, "restarts": budget.restarts, "location": self.location}
        yield self.stage("gap", universal), False
        if siblings:
            yield self.stage("ensemble", universal), True
        yield self.stage("patch_apgd", {**search, "loss": "cross_entropy"}), False
        yield self.stage("patch_apgd", {**search, "loss": "margin"}), False
        yield self.stage("sparse_rs", {"queries": budget.queries, "location": self.location}), False
