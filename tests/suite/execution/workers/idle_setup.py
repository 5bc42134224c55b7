"""A setup that loads no torch: its execution takes any key, and does what that says."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.workers.messages import Finished, Noted, Progressed, Started, Telling


class IdlePlan(NamedTuple):
    """Jobs that are words."""

    jobs: tuple[IdleJob, ...]


class IdleJob(NamedTuple):
    """A word."""

    key: str


@dataclass(frozen=True)
class IdleSetup:
    """Stands in for a `Setup`."""

    cache: Path
    device: str = "cpu"
    address: str | None = None

    def execution(self, telling: Telling) -> IdleExecution:
        """Its execution."""
        return IdleExecution(telling)


@dataclass(frozen=True)
class IdleExecution:
    """Stands in for an `Execution`."""

    telling: Telling
    plan: IdlePlan = IdlePlan(tuple(map(IdleJob, ("a", "b", "where", "sleep", "kill", "full", "broken"))))  # noqa: RUF009

    def attempt(self, job: IdleJob) -> None:
        """Do what the key says."""
        send = self.telling.send
        send(Started(job.key))
        send(Progressed(job.key, 0.5, {"loss": 1.0}))
        if job.key == "where":
            send(Noted(f"{Path.cwd()} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}"))
        if job.key == "sleep":
            time.sleep(600)
        if job.key == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.key == "full":
            raise StorageError("the disk is full")
        if job.key == "broken":
            raise QPatchBenchError("no such thing")
        send(Finished(job.key, 1.0))
