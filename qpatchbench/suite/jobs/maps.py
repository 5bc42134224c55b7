"""Jobs that keep what the bit-widths of a backbone see: feature maps, input gradients and Grad-CAM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, float_deployment
from qpatchbench.suite.jobs.similarity import backbones
from qpatchbench.suite.jobs.versions import JOB_VERSIONS

_PGD_PASSES = 20 * (3 + 1)  # a gradient per step, and a look at what it gave


@dataclass(frozen=True)
class MapsJob(Job):
    """Feature maps, input gradients and Grad-CAM of one backbone at every bit-width, and how well they agree.

    Attributes:
        networks: the backbone at two bit-widths or more; the widest is what the others are compared with.
        patch: a universal patch, under which they are looked at too; None: without one.
        images: how many evaluation images agreement is measured on.
        drawn: of how many of them the maps are kept.
    """

    networks: tuple[DeployJob, ...]
    patch: CraftJob | None
    images: int
    drawn: int
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: ClassVar[str] = "maps"

    def identity(self) -> dict[str, Any]:
        """Networks, patch and images."""
        return {
            "job": ["maps", JOB_VERSIONS["maps"]],
            "networks": [network.network_key for network in self.networks],
            "patch": self.patch.key if self.patch else None,
            "images": [self.images, self.drawn, self.facts["evaluation"], self.facts["placement"]],
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
        contents = 2 if self.patch else 1
        each = 3.0 * (contents + 1) + 3.0 * contents  # gradients under PGD too, and Grad-CAM
        return min(self.images, sizes.evaluation) * (_PGD_PASSES + each * len(self.networks))


def maps_jobs(
    networks: Sequence[DeployJob],
    patches: Mapping[tuple[str, int], CraftJob],
    cells: Sequence[EvaluateJob],
    images: int,
    drawn: int,
) -> Iterator[MapsJob]:
    """One job per backbone, as `similarity_jobs` has them, always with its 32-bit network where there is one.

    Args:
        networks: all networks of a suite.
        patches: (model title, seed) -> a patch of the pool. Where there is none, a backbone is looked at under the
            first universal patch of `cells` that was crafted on its own widest network.
        cells: all evaluations of the suite.
        images: how many evaluation images agreement is measured on.
        drawn: of how many of them the maps are kept.
    """
    for own in backbones(networks):
        members = own if any(network.bits.is_float for network in own) else _with_float(own)
        checkpoint = members[0].checkpoint
        patch = patches.get((checkpoint.model.title, checkpoint.seed)) or _own_patch(members, cells)
        if len(members) > 1:
            yield MapsJob(members, patch, images, drawn, members[0].facts)


def _with_float(networks: tuple[DeployJob, ...]) -> tuple[DeployJob, ...]:
    found = float_deployment(networks[0])
    return (found, *networks) if found else networks


def _own_patch(networks: tuple[DeployJob, ...], cells: Sequence[EvaluateJob]) -> CraftJob | None:
    widest = max(networks, key=lambda network: network.bits)
    return next(
        (
            cell.patch
            for cell in cells
            if cell.patch.attack.kind == "universal"
            and cell.patch.source is not None
            and cell.patch.source.network_key == widest.network_key
        ),
        None,
    )
