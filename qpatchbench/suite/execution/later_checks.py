"""Checks that need more than one artifact: V5 of every patch's history, V11, V12 and V14 of the audits.

They are made of what jobs left behind whenever results are written, so that no job depends on them.
"""

from __future__ import annotations

from qpatchbench.evaluation.checks.convergence import has_converged
from qpatchbench.runs.records import Check
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.jobs.audit import AuditJob
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.work.audit import audit_check

_CHECKS = {"ladder": "V11", "gradients": "V12", "second": "V14"}


class LaterChecks:
    """Looks up what finished jobs say about cells."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._off = execution.plan.suite.evaluation.checks == "off"
        self._converged: dict[str, Check] = {}
        self._audits: dict[str, list[Check]] = {}
        for job in execution.plan.audits:
            self._audits.setdefault(job.cell.key, []).append(self._audited(job))

    def of(self, cell: EvaluateJob) -> list[Check]:
        """What is to be added to the checks of a finished cell."""
        if self._off or not cell.patch.sources:
            return []
        return [self._convergence(cell.patch), *self._audits.get(cell.key, [])]

    def _convergence(self, patch: CraftJob) -> Check:
        if patch.key not in self._converged:
            artifact = self._execution.artifact(patch)
            self._converged[patch.key] = has_converged(artifact.facts["history"] if artifact is not None else ())
        return self._converged[patch.key]

    def _audited(self, job: AuditJob) -> Check:
        artifact = self._execution.artifact(job)
        if artifact is not None:
            return audit_check(job, artifact)
        reason = self._execution.errors[job.key].strip().splitlines()[-1]
        return Check(id=_CHECKS[job.question], verdict="not-run", message=f"its job failed: {reason}")
