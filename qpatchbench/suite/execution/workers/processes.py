"""The process executor: one run that schedules, and workers that it starts, feeds, replaces and ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.execution.workers.messages import (
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
from qpatchbench.suite.execution.workers.serve import serve
from qpatchbench.suite.execution.workers.setup import Setup
from qpatchbench.suite.jobs.base import Job

RETRIES = 2  # of a job whose worker died
HELD = 8  # networks that a worker keeps in memory


@dataclass
class _Worker:
    """One process.

    Attributes:
        number: decides its GPU.
        idle: it waits for a job.
        job: what it works on.
        held: keys of networks that it used last.
    """

    number: int
    process: SpawnProcess
    connection: Connection
    idle: bool = False
    job: Job | None = None
    held: list[str] = field(default_factory=list)


class Processes:
    """Runs the missing jobs of an execution in several processes on this machine.

    Attributes:
        execution: whose jobs run; told what happened to them.
        setup: what workers are told of the run.
        count: how many workers.
    """

    def __init__(self, execution: Execution, setup: Setup, count: int) -> None:
        self.execution, self.setup, self.count = execution, setup, count
        self._jobs = {job.key: job for job in execution.plan.jobs}
        self._deaths: Counter[str] = Counter()
        self._stillborn = 0  # workers in a row that died before they did anything
        self._workers: dict[int, _Worker] = {}
        self._schedule = Schedule((), execution.plan.sizes)

    def run(self) -> None:
        """Run every job that is missing or damaged; a failure stops only what depends on it.

        Raises:
            StorageError: results can no longer be kept, so nothing more is computed.
            QPatchBenchError: no worker can be set up.
        """
        missing = [job for job in self.execution.plan.jobs if not self.execution.sound(job)]
        self._schedule = Schedule(missing, self.execution.plan.sizes)
        try:
            for number in range(min(self.count, len(missing))):
                self._start(number)
            while self._schedule.left:
                self._listen()
                self._feed()
        finally:
            self._end()
        for job in missing:
            if job.key not in self.execution.errors and not self.execution.store.has(job.kind, job.key):
                self.execution.block(job)

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve,
            args=(theirs, self.setup.of_worker(number), self.execution.time_limit),
            name=f"worker {number}",
        )
        with _threads_each(self.count):
            process.start()
        theirs.close()
        self._workers[number] = _Worker(number, process, ours)

    def _feed(self) -> None:
        """Give every idle worker a job."""
        for worker in self._workers.values():
            while worker.idle and (job := self._schedule.take(worker.held)) is not None:
                if self.execution.sound(job):  # another run made it meanwhile
                    self._schedule.done(job)
                    continue
                worker.job, worker.idle = job, False
                worker.held = [*worker.held, *networks_of(job)][-HELD:]
                with contextlib.suppress(OSError):  # it died, which is heard next
                    worker.connection.send(job.key)

    def _listen(self) -> None:
        workers = {worker.connection: worker for worker in self._workers.values()}
        for connection in wait([*workers]):
            assert isinstance(connection, Connection)
            worker = workers[connection]
            try:
                while connection.poll():
                    self._hear(worker, connection.recv())
            except (EOFError, OSError):
                self._bury(worker)

    def _hear(self, worker: _Worker, message: Message) -> None:
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
                self._stillborn = 0
                worker.idle = True
                self._settle(worker)
            case Stopped(text, storage):
                raise StorageError(text) if storage else QPatchBenchError(f"a worker cannot go on: {text}")

    def _settle(self, worker: _Worker) -> None:
        """The job of a worker that is idle again is finished or failed."""
        job, worker.job = worker.job, None
        if job is not None:
            (self._schedule.failed if job.key in self.execution.errors else self._schedule.done)(job)

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its job runs once more, or is given up, and another worker takes its place."""
        worker.process.join()
        worker.connection.close()
        cause = _cause(worker.process.exitcode)
        del self._workers[worker.number]
        if worker.job is not None:
            self._lose(worker.job, cause)
        else:
            self._stillborn += 1
            if self._stillborn > RETRIES:
                raise QPatchBenchError(
                    f"expected workers that wait for jobs, found {self._stillborn} in a row that died before their "
                    f"first: {cause}; fewer --workers need less memory"
                )
        if self._schedule.left:
            self._start(worker.number)

    def _lose(self, job: Job, cause: str) -> None:
        self._deaths[job.key] += 1
        times = self._deaths[job.key]
        display = self.execution.display
        if times <= RETRIES:
            display.note(f"a worker died ({cause}) in {job.title}, which runs once more")
            self._schedule.again(job)
            return
        reason = f"worker died {times} times: {cause}"
        self.execution.errors[job.key] = f"{job.title}: {reason}"
        display.failed(job, reason)
        self._schedule.failed(job)

    def _end(self) -> None:
        """End all workers at once: what they had not finished is not kept, and what they had is on disk."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.connection.close()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    more = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"signal {-code}, {signal.Signals(-code).name}{more}"


@contextlib.contextmanager
def _threads_each(count: int) -> Iterator[None]:
    """A process that is started inside has its share of the cores; how many, the user may have said."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // count))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
