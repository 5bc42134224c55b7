"""The process executor: several workers on one machine, of which each does one job at a time.

Only keys of jobs and news of them travel; artifacts go through the store. A job is sent when all that it needs is
there, the dearest first, and to a worker that holds its networks where there is one. A worker that dies is replaced,
and its job begun again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from qpatchbench.errors import ArtifactError, StorageError
from qpatchbench.suite.execution.executor import Display, Execution
from qpatchbench.suite.execution.worker_process import Message, Recipe, serve
from qpatchbench.suite.jobs.base import DataKeys, Job
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.plan.sizes import estimated_sizes
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.suite.work.worker import BenchWorker

MOST_DEATHS = 3  # of workers over one job, before it is an error


@dataclass
class _Crewman:
    """A worker process, the job it does, and the keys of jobs whose artifacts it has looked at."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None
    seen: set[str] = field(default_factory=set)


def pooled(
    plan: Plan,
    data: Mapping[str, DataKeys],
    weights: Mapping[str, str],
    bench: Workbench,
    display: Display,
    workers: int,
    time_limit: float | None,
) -> PooledExecution:
    """The execution of a plan by so many workers, which share the cores that this process may use, and all GPUs.

    OMP_NUM_THREADS, where it is set, is the number of threads of each.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else max(1, cores // workers)
    recipe = Recipe(
        plan.suite.resolved(), data, weights, plan.key, bench.store.root, bench.data_dir, str(bench.device), threads,
        time_limit,
    )  # fmt: skip
    gpus = torch.cuda.device_count() if bench.device == torch.device("cuda") else 0
    return PooledExecution(
        plan, bench.store, BenchWorker(bench), display, time_limit=time_limit, recipe=recipe, workers=workers, gpus=gpus
    )


@dataclass
class PooledExecution(Execution):
    """Runs the jobs of a plan in processes; artifacts, errors and exports are those of the serial executor.

    Attributes:
        recipe: of the workers; its device cuda stands for all GPUs, handed out in turn.
        workers: number of processes.
        gpus: number of GPUs.
    """

    recipe: Recipe | None = None
    workers: int = 2
    gpus: int = 0

    def run(self) -> None:
        """Run every job that is missing or damaged; a failure stops only what depends on it.

        Raises:
            StorageError: results can no longer be kept, so nothing more is computed.
        """
        missing = {job.key: job for job in self.plan.jobs if not self._kept(job)}
        if not missing:
            return
        sizes = estimated_sizes(self.plan)
        costs = {key: job.cost(sizes) for key, job in missing.items()}
        deaths = dict.fromkeys(missing, 0)
        crew = [self._hired(index) for index in range(min(self.workers, len(missing)))]
        try:
            while missing:
                self._send_out(crew, missing, costs)
                busy = [man for man in crew if man.job is not None]
                if not busy:
                    break  # all that is left is blocked
                ready = wait([man.connection for man in busy])
                for index, man in enumerate(crew):
                    if man.connection in ready and not self._heard(man, missing):
                        crew[index] = self._replaced(man, index, missing, deaths)
        finally:
            for man in crew:
                man.process.terminate()
            for man in crew:
                man.process.join()

    def _kept(self, job: Job) -> bool:
        if not self.store.has(job.kind, job.key):
            return False
        try:
            self.store.read(job.kind, job.key)
        except ArtifactError as error:
            self.display.note(f"{error}; it is computed again")
            self.store.remove(job.kind, job.key)
            return False
        return True

    def _hired(self, index: int) -> _Crewman:
        assert self.recipe is not None, "a pool is made with a recipe"
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        here, there = context.Pipe()
        device = f"cuda:{index % self.gpus}" if self.gpus and self.recipe.device == "cuda" else self.recipe.device
        process = context.Process(target=serve, args=(replace(self.recipe, device=device), there), daemon=True)
        process.start()
        there.close()  # so that the end of the process is the end of the connection
        return _Crewman(process, here)

    def _send_out(self, crew: Iterable[_Crewman], missing: dict[str, Job], costs: Mapping[str, float]) -> None:
        """Give every idle worker a job whose upstream is done; forget jobs that are blocked."""
        at_work = {man.job.key for man in crew if man.job is not None}
        ready = []
        for key, job in list(missing.items()):
            if self.is_blocked(job):
                del missing[key]
            elif key not in at_work and not any(earlier.key in missing for earlier in job.upstream):
                ready.append(job)
        ready.sort(key=lambda job: (not job.alone, costs[job.key]))
        for man in crew:
            # What measures time comes last, when all others are idle, and nothing is begun beside it.
            if any(other.job.alone for other in crew if other.job is not None):
                return
            if ready and ready[-1].alone and any(other.job is not None for other in crew):
                return
            if man.job is None and ready:
                known = [
                    job for job in ready if not job.alone and any(earlier.key in man.seen for earlier in job.upstream)
                ]
                job = (known or ready)[-1]
                ready.remove(job)
                man.job = job
                man.seen.update(earlier.key for earlier in job.upstream)
                self.display.started(job)
                with contextlib.suppress(OSError):  # it has died, which `_heard` finds
                    man.connection.send(job.key)

    def _heard(self, man: _Crewman, missing: dict[str, Job]) -> bool:
        """Take in one message; False where the worker has died."""
        try:
            message: Message = man.connection.recv()
        except (EOFError, OSError):
            return False
        if message.event == "lost":
            raise StorageError(message.text)
        if message.event == "note":
            self.display.note(message.text)
            return True
        jobs = {job.key: job for job in self.plan.jobs} if message.key not in missing else missing
        job = jobs[message.key]
        if message.event == "progressed":
            self.display.progressed(job, message.number, message.figures)
            return True
        if message.event == "finished":
            self.ran.append(job.key)
            self.display.finished(job, message.number)
        else:
            self.errors[job.key] = message.traceback
            self.display.failed(job, message.text)
        missing.pop(job.key, None)
        if man.job is job:
            man.job = None
        return True

    def _replaced(self, man: _Crewman, index: int, missing: dict[str, Job], deaths: dict[str, int]) -> _Crewman:
        """A new worker for one that has died; its job is tried again, but not for ever."""
        man.process.join()
        job, code = man.job, man.process.exitcode
        if job is not None:
            deaths[job.key] += 1
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
            if deaths[job.key] < MOST_DEATHS:
                self.display.note(f"a worker {how} during {job.title}; it is begun again")
            else:
                reason = (
                    f"its worker {how}, {MOST_DEATHS} times in a row; see whether memory suffices, or use fewer workers"
                )
                self.errors[job.key] = reason
                self.display.failed(job, reason)
                del missing[job.key]
        return self._hired(index)
