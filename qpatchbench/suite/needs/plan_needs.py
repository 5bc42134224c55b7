"""Needs of a plan: what its missing jobs take of disk and memory, what is there, and where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qpatchbench.runs.files import size_text
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.pipeline import CraftJob, TrainJob
from qpatchbench.suite.needs.disk import decoded_bytes, results_bytes
from qpatchbench.suite.needs.job_estimates import Estimates
from qpatchbench.suite.needs.memory import PROCESS
from qpatchbench.suite.needs.room import available_bytes, free_bytes, on_one_disk, whole_bytes
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Store

if TYPE_CHECKING:
    import torch


class JobNeeds(NamedTuple):
    """Bytes of one job: what it leaves in the store, and the most that its worker holds; None where not known."""

    job: Job
    disk: float | None
    memory: float | None


@dataclass(frozen=True)
class PlanNeeds:
    """What a plan takes, and what there is.

    Attributes:
        jobs: those that are missing.
        images: bytes of decoded images that go into the cache.
        results: bytes of the run folder; 0 where nothing is missing.
        cache, output: folders.
        free: bytes free on the disk of each.
        available: bytes of memory that are available to a worker; None: not known.
        measured: whether the largest job's estimate rests on jobs like it that ended here.
        host: bytes of memory that a worker holds beside what it holds of a GPU.
        of_gpu: bytes of memory of the GPU where jobs compute; None: on the CPU.
    """

    jobs: tuple[JobNeeds, ...]
    images: float
    results: float
    cache: Path
    output: Path
    free: tuple[int, int]
    available: int | None
    measured: bool = False
    host: float = 0.0
    of_gpu: int | None = None

    @property
    def stored(self) -> float:
        """Bytes that go into the cache."""
        return self.images + sum(each.disk or 0.0 for each in self.jobs)

    @property
    def unknown(self) -> int:
        """Missing jobs of which disk or memory is not known."""
        return sum(each.disk is None or each.memory is None for each in self.jobs)

    @property
    def largest(self) -> JobNeeds | None:
        """The missing job that takes most memory."""
        known = [each for each in self.jobs if each.memory is not None]
        return max(known, key=lambda each: each.memory or 0.0, default=None)

    def shortages(self) -> Iterator[str]:
        """Where it does not fit: what was expected, what was found, and the way out."""
        together = on_one_disk(self.cache, self.output)
        wanted = [(self.cache, self.stored + self.results * together, self.free[0], "QPATCHBENCH_CACHE")]
        if not together:
            wanted.append((self.output, self.results, self.free[1], "--output"))
        for folder, size, free, option in wanted:
            if size > free:
                yield (
                    f"{folder}: expected room for about {size_text(size)} of results, found {size_text(free)} free; "
                    f"free space, or choose another disk with {option}"
                )
        largest = self.largest
        if largest is not None and self.available is not None and (largest.memory or 0.0) > self.available:
            yield (
                f"{largest.job.title}: expected about {size_text(largest.memory or 0.0)} of memory at its peak, found "
                f"{size_text(self.available)} available; {_way_out(largest.job)}"
            )


def plan_needs(
    plan: Plan, store: Store, estimates: Estimates, device: torch.device, output: Path, *, read: bool
) -> PlanNeeds:
    """The needs of what is missing.

    Args:
        plan: all jobs.
        store: where results are and go.
        estimates: of its jobs on `device`.
        device: where to compute.
        output: the run folder.
        read: whether the images are in the cache already.
    """
    sizes = estimates.around.sizes
    missing = [job for job in plan.jobs if not store.has(job.kind, job.key)]
    found = tuple(JobNeeds(job, estimates.disk(job), estimates.memory(job)) for job in missing)
    needs = PlanNeeds(
        jobs=found,
        images=0.0 if read else decoded_bytes(plan, sizes),
        results=results_bytes(plan, sizes) if missing else 0.0,
        cache=store.root,
        output=output,
        free=(free_bytes(store.root), free_bytes(output)),
        available=available_bytes(device),
        host=PROCESS + estimates.around.kept_images,
        of_gpu=whole_bytes(device),
    )
    largest = needs.largest
    known = largest is not None and estimates.experience.ratio(estimates.place, largest.job) is not None
    return replace(needs, measured=known)


def _way_out(job: Job) -> str:
    """Which field makes a job smaller."""
    if isinstance(job, TrainJob | CostJob):
        training = job if isinstance(job, TrainJob) else job.trainings[0]
        field = "finetuning.batch_size" if training.initial is not None else "training.batch_size"
        return f"a smaller {field} takes less"
    if isinstance(job, CraftJob) and job.attack.kind == "universal" and hasattr(job.attack, "batch_size"):
        return f"a smaller batch_size of {job.attack.name}, or fewer of its targets, takes less"
    return "a smaller evaluation.batch_size takes less"
