"""The part of AutoPatch that needs no gradient, for networks that give none: stage 5 of `autopatch`, alone.

A file that is deployed answers with logits and nothing else, so that four of AutoPatch's five stages cannot be run on
it. What remains is `sparse_rs` (Croce et al. 2022, arXiv 2006.12834) with AutoPatch's budget of queries, on the images
that the network gets right when clean, place and patch searched together. It is an attack of its own, with a name of
its own: its ASR is that of one search, where AutoPatch's is the worst of five attacks, and the two are no rivals.
On a network that has a gradient it asks what scores alone would have found, from the first image on.

Queries of an image are one look without a patch, those of the search, and one at the finished patch where it breaks
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.staged.base import BUDGETS, StagedAttack


class AutoPatchScores(StagedAttack):
    """What the standard evaluation does from scores alone."""

    access: ClassVar[Literal["gradient", "scores", "none"]] = "scores"
    learns: ClassVar[bool] = False

    def stages(self, siblings: bool) -> Iterator[tuple[Attack, bool]]:
        """Random search; no other bit-width has a part in it."""
        yield self.stage("sparse_rs", {"queries": BUDGETS[self.effort].queries, "location": self.location}), False
