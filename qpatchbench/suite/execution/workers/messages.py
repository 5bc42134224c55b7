"""Messages of workers on their jobs: keys, seconds and words; artifacts travel through the store alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from qpatchbench.suite.jobs.base import Job

OFTEN = 0.2  # seconds between two messages on the progress of a job, where they cost little


class Started(NamedTuple):
    """A job is about to run."""

    key: str


class Progressed(NamedTuple):
    """A job is at `fraction` (0..1)."""

    key: str
    fraction: float
    figures: Mapping[str, float]


class Finished(NamedTuple):
    """A job's artifact is in the store."""

    key: str
    seconds: float


class Failed(NamedTuple):
    """A job failed: one line, and the whole traceback."""

    key: str
    reason: str
    error: str


class Noted(NamedTuple):
    """Something a person should know."""

    text: str


class Idle(NamedTuple):
    """The worker waits for a job."""


class Stopped(NamedTuple):
    """The run cannot go on: the disk refuses (`storage`), or the worker could not be set up."""

    text: str
    storage: bool


class Died(NamedTuple):
    """The worker is gone, told by the crew; `blameless` where its job has no part in that."""

    cause: str
    blameless: bool = False


Message: TypeAlias = Started | Progressed | Finished | Failed | Noted | Idle | Stopped | Died


class Telling:
    """A display that sends what it is told.

    Attributes:
        send: takes messages.
        errors: those of the execution whose display this is, key -> traceback.
        often: seconds between two messages on the progress of a job.
    """

    def __init__(self, send: Callable[[Message], None], errors: dict[str, str], often: float = OFTEN) -> None:
        self.send, self.errors, self.often = send, errors, often
        self.latest = 0.0

    def started(self, job: Job) -> None:
        """Tell it."""
        self.latest = 0.0
        self.send(Started(job.key))

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Tell it, but not too often; the last figures are always told."""
        now = time.monotonic()
        if fraction >= 1 or now - self.latest >= self.often:
            self.latest = now
            self.send(Progressed(job.key, float(fraction), {name: float(value) for name, value in figures.items()}))

    def finished(self, job: Job, seconds: float) -> None:
        """Tell it."""
        self.send(Finished(job.key, seconds))

    def failed(self, job: Job, reason: str) -> None:
        """Tell it, with the traceback."""
        self.send(Failed(job.key, reason, self.errors[job.key]))

    def note(self, text: str) -> None:
        """Tell it."""
        self.send(Noted(text))
