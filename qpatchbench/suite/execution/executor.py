"""Runs the jobs that are missing, one by one; keeps what is done, and turns a failing job into an error."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from qpatchbench.errors import ArtifactError, QPatchBenchError, StorageError
from qpatchbench.suite.execution.time_limit import at_most
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.needs.observed_peak import observed_peak
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.plugin_facts import plugins_of
from qpatchbench.suite.store.provenance import provenance
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.types import Progress

if TYPE_CHECKING:
    import torch


class Display(Protocol):
    """Tells a person how a run goes."""

    def started(self, job: Job) -> None:
        """`job` is about to run."""

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """`job` is at `fraction` (0..1)."""

    def finished(self, job: Job, seconds: float) -> None:
        """`job` is done and on disk."""

    def failed(self, job: Job, reason: str) -> None:
        """`job` failed; `reason` is one line."""

    def note(self, text: str) -> None:
        """Something a person should know."""


class Worker(Protocol):
    """Computes artifacts; `BenchWorker` is the one that imports torch."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def work(self, job: Job, progress: Progress) -> Artifact:
        """The artifact of `job`, whose upstream artifacts are in the store."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line: of several lines the first that holds a finding, after what it is about.

    The first line of torch's "Error(s) in loading state_dict for ResNet:" only announces the findings below it.
    """
    if isinstance(error, SystemExit):
        return f"a component called sys.exit({'' if error.code is None else repr(error.code)})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    if text.endswith(":") and len(lines) > 1:
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        text = f"{text} {lines[1]}{more}"
    return text if isinstance(error, QPatchBenchError) else f"{type(error).__name__}: {text}"


@dataclass
class Execution:
    """What happened to the jobs of a plan.

    Attributes:
        ran: keys of jobs that ran now.
        errors: key of a failed job -> its traceback, or why it could not start.
        time_limit: seconds after which a job is given up; None: never.
    """

    plan: Plan
    store: Store
    worker: Worker
    display: Display
    ran: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    time_limit: float | None = None

    def run(self) -> None:
        """Run every job that is missing or damaged; a failure stops only what depends on it.

        Everything is read before it is used, so that a run that repairs ends like one that had nothing to repair.

        Raises:
            StorageError: results can no longer be kept, so nothing more is computed.
        """
        for job in self.plan.jobs:
            if self.store.has(job.kind, job.key):
                self.artifact(job)
            elif not self.block(job):
                self.attempt(job)

    def artifact(self, job: Job) -> Artifact | None:
        """A finished job's artifact, recomputed if its bytes are damaged; None if it failed."""
        if job.key in self.errors:
            return None
        try:
            return self.store.read(job.kind, job.key)
        except ArtifactError as error:
            self._rebuild(job, error)
        return None if job.key in self.errors else self.store.read(job.kind, job.key)

    def sound(self, job: Job) -> bool:
        """Whether a job is finished and its bytes are those that were written; forgets damaged ones."""
        if not self.store.has(job.kind, job.key):
            return False
        try:
            self.store.read(job.kind, job.key)
        except ArtifactError as error:
            self._forget(job, error)
            return False
        return True

    def block(self, job: Job) -> bool:
        """Whether a job cannot run because one before it failed, which becomes its error."""
        blocked = next((earlier for earlier in job.upstream if earlier.key in self.errors), None)
        if blocked is None:
            return False
        reason = self.errors[blocked.key].strip().splitlines()[-1]
        self.errors[job.key] = f"not started, because {blocked.title!r} failed: {reason}"
        return True

    def attempt(self, job: Job) -> None:
        """Run a job whose upstream is finished.

        Raises:
            StorageError: its result cannot be kept.
        """
        self.display.started(job)
        started = time.monotonic()
        try:
            with observed_peak(self.worker.device) as peak:
                artifact = self._work(job)
            seconds = time.monotonic() - started
            outside = plugins_of(job)
            made = {**provenance(seconds, self.worker.device), **({"plugins": outside} if outside else {})}
            made |= {} if peak.bytes is None else {"peak_bytes": peak.bytes}
            kept = replace(artifact, facts={**artifact.facts, "made": made})
            self.store.write(job.kind, job.key, kept)
        except StorageError:
            raise
        except (Exception, SystemExit) as error:  # a component that ends the process ends its own job only
            self.errors[job.key] = traceback.format_exc()
            self.display.failed(job, reason_of(error))
            return
        self.ran.append(job.key)
        self.display.finished(job, seconds)

    def _work(self, job: Job) -> Artifact:
        try:
            return self._timed(job)
        except ArtifactError:
            if not job.upstream:
                raise
        # A damaged artifact upstream: whichever it is, make it again, then this job once more. Of several processes
        # that meet the damage one makes it again, and the others find nothing left to do.
        with self.store.alone("mend"):
            self._mend(job)
        return self._timed(job)

    def _timed(self, job: Job) -> Artifact:
        with at_most(self.time_limit, job.title):
            return self.worker.work(job, functools.partial(self.display.progressed, job))

    def _mend(self, job: Job) -> None:
        for earlier in job.upstream:
            self._mend(earlier)
            try:
                self.store.read(earlier.kind, earlier.key)
            except ArtifactError as error:
                self._rebuild(earlier, error)

    def _rebuild(self, job: Job, error: ArtifactError) -> None:
        self._forget(job, error)
        if not self.block(job):
            self.attempt(job)

    def _forget(self, job: Job, error: ArtifactError) -> None:
        self.display.note(f"{error}; it is computed again")
        self.store.remove(job.kind, job.key)
