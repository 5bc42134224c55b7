"""Estimates of what a job takes: from dry passes, and where jobs like it ended here, from what those took."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.needs.disk import snapshot_bytes, stored_bytes
from qpatchbench.suite.needs.experience import DISK, Experience, read_experience
from qpatchbench.suite.needs.footprints import Footprints
from qpatchbench.suite.needs.memory import PROCESS, Surroundings, peak_bytes
from qpatchbench.suite.needs.observed_peak import CONTEXT
from qpatchbench.suite.plan.paces import place_of
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.provenance import ran_on

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Estimates:
    """What jobs of a plan take on one device.

    Attributes:
        around: what decides their memory beside themselves.
        experience: of jobs that ended.
        place: the device, as `paces.place_of` calls it.
    """

    around: Surroundings
    experience: Experience
    place: str

    def disk(self, job: Job) -> float | None:
        """Bytes that a job leaves in the store."""
        found = stored_bytes(job, self.around.sizes, self.around.footprints)
        if found is None:
            return None
        return found * (self.experience.ratio(DISK, job) or 1.0) + snapshot_bytes(job, self.around.footprints)

    def memory(self, job: Job) -> float | None:
        """The most bytes that a worker holds while it does a job."""
        found = peak_bytes(job, self.around)
        return None if found is None else found * (self.experience.ratio(self.place, job) or 1.0)


def estimates_of(plan: Plan, sizes: Sizes, cache: Path, device: torch.device, *, keep: bool = True) -> Estimates:
    """Estimates for the jobs of a plan.

    Args:
        plan: all jobs of a suite.
        sizes: number of images in each part.
        cache: where footprints and experience are remembered.
        device: where jobs compute.
        keep: whether footprints that are found now are remembered.
    """
    suite = plan.suite
    # Where nothing is trained, datasets of one folder hold no images for it: their usual number is nobody's.
    learning = suite.dataset.train_images or any(isinstance(job, TrainJob) and job.trains for job in plan.jobs)
    around = Surroundings(
        footprints=Footprints(suite, cache, keep=keep),
        sizes=sizes if learning else replace(sizes, train=0),
        side=suite.dataset.side,
        batch_size=suite.evaluation.batch_size,
        networks=len({job.network_key for job in plan.jobs if isinstance(job, DeployJob)}),
        base=PROCESS if device.type == "cpu" else CONTEXT,
    )
    return Estimates(around, read_experience(cache), place_of(ran_on(device)))
