"""The job that measures one patch on one network, and how the weights of its networks are related."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from qpatchbench.runs.records import Lineage
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.jobs.versions import JOB_VERSIONS
from qpatchbench.types import Transformation


@dataclass(frozen=True)
class EvaluateJob(Job):
    """Measure one patch on one target network.

    Attributes:
        control: the patch is a control, which looked at no network.
        seen: seen: the suite's pool holds this very patch for training; unseen: it is one of those that share no
            attack, size or bit-width with them. No part of the key: it changes no prediction.
    """

    patch: CraftJob
    target: DeployJob
    control: bool
    facts: dict[str, Any] = field(compare=False, repr=False)
    transformation: Transformation = Transformation()  # noqa: RUF009 (frozen)
    seen: Literal["seen", "unseen", ""] = ""

    kind: ClassVar[str] = "evaluate"

    def identity(self) -> dict[str, Any]:
        """Patch, target, images and placements."""
        return {
            "job": ["evaluate", JOB_VERSIONS["evaluate"]],
            "patch": self.patch.key,
            "target": self.target.key,
            "placement": self.facts["placement"],
            "transformation": str(self.transformation),
        }

    @property
    def label(self) -> str:
        """What it works on."""
        moved = f", {self.transformation}" if str(self.transformation) else ""
        return f"{self.patch.label} -> {self.target.label}{moved}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.patch, self.target)

    @property
    def network(self) -> tuple[str, bool]:
        """The target."""
        return self.target.network

    @property
    def lineage(self) -> Lineage | Literal[""]:
        """How the weights of source and target are related; for an ensemble, the closest of its members."""
        found = [_relation(source, self.target) for source in self.patch.sources]
        if len(found) > 1 and "same-network" in found:
            return "ensemble"
        return min(found, key=_CLOSENESS.index, default="")

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image."""
        return float(sizes.evaluation * len(self.patch.goals))


_CLOSENESS: tuple[Lineage, ...] = ("same-network", "shared-weights", "fine-tuned", "independent")


def _relation(source: DeployJob, target: DeployJob) -> Lineage:
    if source.network_key == target.network_key:
        return "same-network"
    if source.checkpoint.key == target.checkpoint.key:
        return "shared-weights"
    return "fine-tuned" if _ancestor(source.checkpoint) == _ancestor(target.checkpoint) else "independent"


def _ancestor(job: TrainJob) -> str:
    return job.initial.key if job.initial else job.key
