"""Jobs beside the cells: what training costs, and how similar the bit-widths of a backbone are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob
from qpatchbench.suite.jobs.versions import JOB_VERSIONS
from qpatchbench.types import distinct


@dataclass(frozen=True)
class SimilarityJob(Job):
    """Features and input gradients of one backbone, compared between its bit-widths.

    Attributes:
        networks: the backbone at two bit-widths or more.
        patch: a universal patch, under which they are compared too; None: on clean images only.
        images: how many evaluation images.
    """

    networks: tuple[DeployJob, ...]
    patch: CraftJob | None
    images: int
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: ClassVar[str] = "similarity"

    def identity(self) -> dict[str, Any]:
        """Networks, patch and images."""
        return {
            "job": ["similarity", JOB_VERSIONS["similarity"]],
            "networks": [network.network_key for network in self.networks],
            "patch": self.patch.key if self.patch else None,
            "images": [self.images, self.facts["evaluation"], self.facts["placement"]],
        }

    @property
    def label(self) -> str:
        """What it works on."""
        bits = " ".join(str(network.bits) for network in self.networks)
        checkpoint = self.networks[0].checkpoint
        return f"of {checkpoint.model.title} {checkpoint.defense.title} [{bits}], seed {checkpoint.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (*self.networks, *((self.patch,) if self.patch else ()))

    @property
    def network(self) -> tuple[str, bool]:
        """The narrowest of them."""
        return self.networks[-1].network

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        return 3.0 * min(self.images, sizes.evaluation) * len(self.networks) * (2 if self.patch else 1)


def similarity_jobs(
    networks: Sequence[DeployJob], patches: Mapping[tuple[str, int], CraftJob], images: int
) -> Iterator[SimilarityJob]:
    """One job per model, defense, seed and quantizer: its bit-widths, and 32 where there is such a network.

    Networks that draw at random, and ensembles, have no features of their own.

    Args:
        networks: all networks of a suite.
        patches: (model title, seed) -> a universal patch.
        images: how many evaluation images.
    """
    for own in backbones(networks):
        if len(own) > 1:
            patch = patches.get((own[0].checkpoint.model.title, own[0].checkpoint.seed))
            yield SimilarityJob(own, patch, images, own[0].facts)


def backbones(networks: Sequence[DeployJob]) -> Iterator[tuple[DeployJob, ...]]:
    """The bit-widths of every model, defense, seed and quantizer, and 32 where there is such a network.

    Networks that draw at random, and ensembles, are left out. At least one of each group is quantized.
    """
    alone = [network for network in networks if not network.partners and not network.quantizer.randomized]
    for network in distinct([network for network in alone if not network.bits.is_float]):
        own = [
            other
            for other in alone
            if _owner(other) == _owner(network) and (other.bits.is_float or other.quantizer == network.quantizer)
        ]
        if own.index(network) == min(own.index(other) for other in own if not other.bits.is_float):
            yield tuple(own)


def _owner(network: DeployJob) -> tuple[str, str, int]:
    return network.checkpoint.model.title, network.checkpoint.defense.title, network.checkpoint.seed
