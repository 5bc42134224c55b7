"""From a job to its artifact; each kind of job has a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

from qpatchbench.suite.analyses import CostJob, SimilarityJob
from qpatchbench.suite.analysing import costs, similarities
from qpatchbench.suite.auditing import audited
from qpatchbench.suite.auditing_jobs import AuditJob
from qpatchbench.suite.bench import Workbench
from qpatchbench.suite.crafting import crafted
from qpatchbench.suite.deploying import deployed
from qpatchbench.suite.jobs import CraftJob, DeployJob, EvaluateJob, Job, TrainJob
from qpatchbench.suite.learning import trained
from qpatchbench.suite.mapping import mapped
from qpatchbench.suite.mapping_jobs import MapsJob
from qpatchbench.suite.measuring import measured
from qpatchbench.suite.store import Artifact
from qpatchbench.types import Progress


@dataclass(frozen=True)
class BenchWorker:
    """Does jobs one after the other on one workbench."""

    bench: Workbench

    def work(self, job: Job, progress: Progress) -> Artifact:
        """Compute a job's artifact from those of the jobs before it, which are in the store."""
        match job:
            case TrainJob():
                return trained(self.bench, job, progress)
            case DeployJob():
                return deployed(self.bench, job)
            case CraftJob():
                return crafted(self.bench, job, progress)
            case EvaluateJob():
                return measured(self.bench, job)
            case AuditJob():
                return audited(self.bench, job, progress)
            case CostJob():
                return costs(self.bench, job, progress)
            case SimilarityJob():
                return similarities(self.bench, job, progress)
            case MapsJob():
                return mapped(self.bench, job, progress)
        raise TypeError(f"expected a job that this worker knows, found {job.kind!r}")
