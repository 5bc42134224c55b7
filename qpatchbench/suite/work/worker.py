"""From a job to its artifact; each kind of job has a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qpatchbench.errors import SharedStateError
from qpatchbench.ops.randomness import derive_seed
from qpatchbench.suite.guards.process_state import process_state
from qpatchbench.suite.jobs.audit import AuditJob
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.audit import audited
from qpatchbench.suite.work.cost import costs
from qpatchbench.suite.work.craft import crafted
from qpatchbench.suite.work.deploy import deployed
from qpatchbench.suite.work.evaluate import evaluated
from qpatchbench.suite.work.maps import mapped
from qpatchbench.suite.work.similarity import similarities
from qpatchbench.suite.work.train import forget_snapshots, trained
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import Progress


@dataclass(frozen=True)
class BenchWorker:
    """Does jobs one after the other on one workbench."""

    bench: Workbench

    @property
    def device(self) -> torch.device:
        """Where the workbench computes."""
        return self.bench.device

    def work(self, job: Job, progress: Progress) -> Artifact:
        """Compute a job's artifact from those of the jobs before it, which are in the store.

        Raises:
            SharedStateError: the job changed a network, images or a state of the process that other jobs use. All of
                it is thrown away or put back, and nothing of the job is kept.
        """
        changed: list[str] = []
        with process_state(derive_seed(0, "job", job.key)) as process:
            try:
                artifact = self._worked(job, progress)
            finally:
                changed += self.bench.taken_back()
        changed += process.found
        if changed:
            if isinstance(job, TrainJob):
                forget_snapshots(self.bench, job)
            raise SharedStateError(
                f"{job.title}: expected a job to leave what others use as it was, found changed: "
                f"{'; '.join(changed)}. Its result is not kept; let the component work on copies"
            )
        return artifact

    def _worked(self, job: Job, progress: Progress) -> Artifact:
        match job:
            case TrainJob():
                return trained(self.bench, job, progress)
            case DeployJob():
                return deployed(self.bench, job)
            case CraftJob():
                return crafted(self.bench, job, progress)
            case EvaluateJob():
                return evaluated(self.bench, job)
            case AuditJob():
                return audited(self.bench, job, progress)
            case CostJob():
                return costs(self.bench, job, progress)
            case SimilarityJob():
                return similarities(self.bench, job, progress)
            case MapsJob():
                return mapped(self.bench, job, progress)
        raise TypeError(f"expected a job that this worker knows, found {job.kind!r}")
