"""The executors with workers: one dispatcher that feeds a crew, hears what it tells, and replaces who dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.execution.workers.memory_shares import MemoryShares
from qpatchbench.suite.execution.workers.messages import (
    Died,
    Failed,
    Finished,
    Idle,
    Message,
    Noted,
    Progressed,
    Started,
    Stopped,
)
from qpatchbench.suite.execution.workers.schedule import Schedule, networks_of
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.sizes import estimated_sizes

RETRIES = 2  # of a job whose worker died, and of a worker that died before its first job
HELD = 8  # networks that a worker keeps in memory


class Crew(Protocol):
    """Workers by number, wherever they are.

    Attributes:
        workers: how many there shall be.
    """

    workers: int

    def start(self, number: int) -> None:
        """Start a worker; it tells `Idle` when it waits for a job."""

    def give(self, number: int, key: str) -> None:
        """Let an idle worker attempt the job with that key."""

    def heard(self) -> Iterable[tuple[int, Message]]:
        """What workers told since the last time, each with the worker's number; waits until there is something."""

    def end(self) -> None:
        """End all workers at once; none is left when this returns."""


@dataclass
class _Worker:
    """What the dispatcher knows of a worker.

    Attributes:
        idle: it waits for a job.
        job: what it works on.
        held: keys of the networks that it used last.
    """

    idle: bool = False
    job: Job | None = None
    held: list[str] = field(default_factory=list)


class Dispatcher:
    """Runs the missing jobs of an execution on a crew.

    Attributes:
        execution: whose jobs run; it learns what happened to them.
        crew: who works; ended with the run.
        memory: what workers may hold at once; None: whoever places them sees to that.
    """

    def __init__(self, execution: Execution, crew: Crew, memory: MemoryShares | None = None) -> None:
        self.execution, self.crew, self.memory = execution, crew, memory
        self._jobs = {job.key: job for job in execution.plan.jobs}
        self._sizes = estimated_sizes(execution.plan)
        self._schedule = Schedule((), self._sizes)
        self._workers: dict[int, _Worker] = {}
        self._deaths: Counter[str] = Counter()
        self._next: Job | None = None  # taken from the schedule, and waiting for memory
        self._stillborn = 0  # workers in a row that died before they waited for a job

    def run(self) -> None:
        """Run every job that is missing or damaged; a failure stops only what depends on it.

        Raises:
            StorageError: results can no longer be kept, so nothing more is computed.
            QPatchBenchError: no worker can be set up.
        """
        execution = self.execution
        try:
            missing = [job for job in execution.plan.jobs if not execution.sound(job)]
            self._schedule = Schedule(missing, self._sizes)
            for number in range(self._workers_for(len(missing))):
                self._start(number)
            while self._schedule.left:
                for number, message in self.crew.heard():
                    self._hear(number, message)
                self._feed()
        finally:
            self.crew.end()
        for job in missing:
            if job.key not in execution.errors and not execution.store.has(job.kind, job.key):
                execution.block(job)

    def _workers_for(self, jobs: int) -> int:
        asked = min(self.crew.workers, jobs)
        if self.memory is None or not asked:
            return asked
        there = self.memory.most_workers(asked)
        if there < asked:
            self.execution.display.note(f"memory is there for {there} of {asked} workers; so many are started")
        return there

    def _start(self, number: int) -> None:
        self._workers[number] = _Worker()
        if self.memory is not None:
            self.memory.wait(number)
        self.crew.start(number)

    def _feed(self) -> None:
        """Give every idle worker a job.

        One for which there is no memory yet is overtaken by no other: small ones could keep it waiting to the end.
        """
        for number, worker in self._workers.items():
            while worker.idle and (job := self._next or self._schedule.take(worker.held)) is not None:
                self._next = None
                if self.execution.sound(job):  # another run made it meanwhile
                    self._schedule.done(job)
                    continue
                if not self._admitted(number, job):
                    self._next = job
                    break
                worker.job, worker.idle = job, False
                worker.held = [*worker.held, *networks_of(job)][-HELD:]
                self.crew.give(number, job.key)

    def _admitted(self, number: int, job: Job) -> bool:
        """Whether there is memory for a job; says so where it runs alone because there is not."""
        if self.memory is None:
            return True
        told = self.memory.admit(
            number,
            job,
            any(other.job is not None and self.memory.beside(number, each) for each, other in self._workers.items()),
        )
        if told:
            self.execution.display.note(told)
        return told is not None

    def _hear(self, number: int, message: Message) -> None:
        execution, jobs = self.execution, self._jobs
        match message:
            case Started(key):
                execution.display.started(jobs[key])
            case Progressed(key, fraction, figures):
                execution.display.progressed(jobs[key], fraction, figures)
            case Finished(key, seconds):
                execution.ran.append(key)
                execution.display.finished(jobs[key], seconds)
            case Failed(key, reason, error):
                execution.errors[key] = error
                execution.display.failed(jobs[key], reason)
            case Noted(text):
                execution.display.note(text)
            case Idle():
                self._settle(number, self._workers[number])
            case Died(cause, blameless):
                self._bury(number, cause, blameless)
            case Stopped(text, storage):
                raise StorageError(text) if storage else QPatchBenchError(f"a worker cannot go on: {text}")

    def _settle(self, number: int, worker: _Worker) -> None:
        """A worker is idle: it has just started, or its job is finished or failed."""
        self._stillborn = 0
        if self.memory is not None:
            self.memory.wait(number)
        job, worker.job, worker.idle = worker.job, None, True
        if job is not None and job.key in self.execution.errors:
            self._schedule.failed(job)
        elif job is not None:
            self._schedule.done(job)

    def _bury(self, number: int, cause: str, blameless: bool) -> None:
        """A worker died: its job runs once more, or is given up, and another worker takes its place."""
        worker = self._workers.pop(number)
        if self.memory is not None:
            self.memory.leave(number)
        if worker.job is not None:
            self._lose(worker.job, cause, blameless)
        elif not worker.idle and not blameless:
            self._stillborn += 1
            if self._stillborn > RETRIES:
                raise QPatchBenchError(
                    f"expected workers that wait for jobs, found {self._stillborn} in a row that died before: {cause}; "
                    "fewer --workers need less memory"
                )
        if self._schedule.left:
            self._start(number)

    def _lose(self, job: Job, cause: str, blameless: bool) -> None:
        self._deaths[job.key] += not blameless
        times = self._deaths[job.key]
        if times <= RETRIES:
            self.execution.display.note(f"a worker died of {cause} in {job.title}, which runs once more")
            self._schedule.again(job)
            return
        reason = f"worker died {times} times: {cause}"
        self.execution.errors[job.key] = f"{job.title}: {reason}"
        self.execution.display.failed(job, reason)
        self._schedule.failed(job)
