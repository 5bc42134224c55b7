"""The order of jobs: each after what it needs, the longest chain first, and alone where a job measures time."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from itertools import islice

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.pipeline import DeployJob

LOOKED_AT = 100  # jobs of one priority among which one is sought whose networks a worker holds


class Schedule:
    """Jobs to be done, and which of them can run now.

    A job's priority is the cost of the longest chain that begins with it, so that the end of a run is short.
    """

    def __init__(self, jobs: Sequence[Job], sizes: Sizes) -> None:
        """Begin.

        Args:
            jobs: what has to run, each after what it needs; what they need besides is finished.
            sizes: number of images in each part.
        """
        self._jobs = {job.key: job for job in jobs}
        self._missing = {
            job.key: {earlier.key for earlier in job.upstream if earlier.key in self._jobs} for job in jobs
        }
        self._dependents: dict[str, list[str]] = {key: [] for key in self._jobs}
        for key, missing in self._missing.items():
            for earlier in missing:
                self._dependents[earlier].append(key)
        self._priority: dict[str, float] = {}
        for job in reversed(jobs):
            after = max((self._priority[key] for key in self._dependents[job.key]), default=0.0)
            self._priority[job.key] = job.cost(sizes) + after
        self._ready: dict[float, dict[str, Job]] = {}
        self._order: list[float] = []  # a heap of the negative priorities in `_ready`
        self._alone: dict[str, Job] = {}
        self.running: set[str] = set()
        for job in jobs:
            if not self._missing[job.key]:
                self._offer(job)

    @property
    def left(self) -> bool:
        """Whether anything runs or can run."""
        return bool(self.running or self._alone or self._first())

    def take(self, held: Collection[str] = ()) -> Job | None:
        """A job to run now, or None: of equal priority one whose networks are `held` (their keys) by the worker."""
        bucket = self._first()
        if bucket is None:
            return None if self.running else self._taken(self._alone, next(iter(self._alone), None))
        seen = islice(bucket, LOOKED_AT)
        key = max(seen, key=lambda key: len(networks_of(bucket[key]) & set(held))) if held else next(seen)
        return self._taken(bucket, key)

    def done(self, job: Job) -> None:
        """`job` is finished: what waited for it may run."""
        self.running.discard(job.key)
        for key in self._dependents.get(job.key, ()):
            missing = self._missing[key]
            if job.key in missing:
                missing.remove(job.key)
                if not missing:
                    self._offer(self._jobs[key])

    def failed(self, job: Job) -> None:
        """`job` failed: what waits for it never runs."""
        self.running.discard(job.key)

    def again(self, job: Job) -> None:
        """`job` was lost, and has to run once more."""
        self.running.discard(job.key)
        self._offer(job)

    def _offer(self, job: Job) -> None:
        if job.alone:
            self._alone[job.key] = job
            return
        priority = self._priority[job.key]
        if priority not in self._ready:
            self._ready[priority] = {}
            heapq.heappush(self._order, -priority)
        self._ready[priority][job.key] = job

    def _first(self) -> dict[str, Job] | None:
        while self._order:
            bucket = self._ready[-self._order[0]]
            if bucket:
                return bucket
            del self._ready[-heapq.heappop(self._order)]
        return None

    def _taken(self, bucket: dict[str, Job], key: str | None) -> Job | None:
        if key is None:
            return None
        self.running.add(key)
        return bucket.pop(key)


def networks_of(job: Job) -> set[str]:
    """Keys of the networks that a job works on."""
    return {member.network_key for member in (job, *job.upstream) if isinstance(member, DeployJob)}
