"""A process that does jobs for another one, which sends it their keys and hears how they go."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qpatchbench.errors import StorageError
from qpatchbench.suite.jobs.base import DataKeys, Job

TOLD_EVERY = 0.25  # seconds between two messages about the progress of a job


@dataclass(frozen=True)
class Recipe:
    """What a process needs to plan the suite as the one that started it did, and to work on it.

    Attributes:
        resolved: the suite, as `Suite.resolved` writes it.
        data, weights: what identifies its images and weights.
        plan: key of the plan, which must come out again.
        cache, data_dir: where artifacts and datasets lie.
        device: its name.
        threads: of torch.
        time_limit: seconds that a job may take.
    """

    resolved: Mapping[str, Any]
    data: Mapping[str, DataKeys]
    weights: Mapping[str, str]
    plan: str
    cache: Path
    data_dir: Path
    device: str
    threads: int
    time_limit: float | None


class Message(NamedTuple):
    """What a worker says of the job with that key.

    Attributes:
        event: what happened to it; `lost` where results can no longer be kept.
        key: of the job; "" where it is about none.
        text: a note, or the reason of a failure in one line.
        traceback: of a failure.
        number: seconds spent, or the share that is done.
        figures: of its progress.
    """

    event: Literal["progressed", "finished", "failed", "note", "lost"]
    key: str = ""
    text: str = ""
    number: float = 0.0
    figures: Mapping[str, float] = {}
    traceback: str = ""


def serve(recipe: Recipe, connection: Connection) -> None:
    """Do jobs until there are no more; end with the process that asks for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it decides what ends
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(recipe.threads)
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.execution.executor import Execution
    from qpatchbench.suite.file.load import suite_from
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.store.store import Store
    from qpatchbench.suite.work.workbench import Workbench
    from qpatchbench.suite.work.worker import BenchWorker

    suite = suite_from(recipe.resolved, "the suite")
    plan = make_plan(suite, recipe.data, recipe.weights)
    if plan.key != recipe.plan:
        connection.send(Message("lost", text="a worker plans other jobs: expected the suite to stay as it is"))
        return
    bench = Workbench(suite, Store(recipe.cache), recipe.data_dir, device_named(recipe.device))
    told = _Telling(connection)
    execution = Execution(plan, bench.store, BenchWorker(bench), told, time_limit=recipe.time_limit)
    jobs = {job.key: job for job in plan.jobs}
    while key := _next(connection):
        try:
            execution.attempt(jobs[key])
        except StorageError as error:
            connection.send(Message("lost", key, str(error)))
            return
        # What the job needs may have failed while it was mended: that is told first.
        for failed in sorted(execution.errors, key=lambda other: other == key):
            traceback = execution.errors.pop(failed)
            connection.send(Message("failed", failed, told.reasons.pop(failed, traceback), traceback=traceback))


def _next(connection: Connection) -> str:
    try:
        return str(connection.recv())
    except EOFError:
        return ""


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Telling:
    """The `Display` that says it all to the other process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.told = 0.0
        self.reasons: dict[str, str] = {}

    def started(self, job: Job) -> None:
        """Nothing: who sent the job knows."""

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Now and then."""
        now = time.monotonic()
        if now - self.told > TOLD_EVERY:
            self.told = now
            self.connection.send(Message("progressed", job.key, number=fraction, figures=dict(figures)))

    def finished(self, job: Job, seconds: float) -> None:
        """With its seconds."""
        self.connection.send(Message("finished", job.key, number=seconds))

    def failed(self, job: Job, reason: str) -> None:
        """Kept, to be sent with the traceback."""
        self.reasons[job.key] = reason

    def note(self, text: str) -> None:
        """As it is."""
        self.connection.send(Message("note", text=text))
