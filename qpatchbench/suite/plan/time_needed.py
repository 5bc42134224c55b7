"""Cost of the missing jobs of a plan: passes of an image, and seconds as far as the device's pace is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.plan.paces import Paces, load_of
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Store


@dataclass(frozen=True)
class JobTime:
    """A job: whether it is done, its passes of one image, and its seconds; None where the pace is not known."""

    job: Job
    done: bool
    passes: float
    seconds: float | None


@dataclass(frozen=True)
class PlanTime:
    """All jobs of a plan."""

    jobs: tuple[JobTime, ...]

    @cached_property
    def missing(self) -> tuple[JobTime, ...]:
        """What is not done."""
        return tuple(each for each in self.jobs if not each.done)

    def kinds(self) -> Iterator[tuple[str, PlanTime]]:
        """The jobs of each kind, in the order of the plan."""
        for kind in dict.fromkeys(each.job.kind for each in self.jobs):
            yield kind, PlanTime(tuple(each for each in self.jobs if each.job.kind == kind))

    @property
    def passes(self) -> float:
        """Passes of one image that are missing."""
        return sum(each.passes for each in self.missing)

    @property
    def seconds(self) -> float | None:
        """Seconds of what is missing, one job after the other; None where no pace is known."""
        known = [each.seconds for each in self.missing if each.passes and each.seconds is not None]
        return sum(known) if known or not self.passes else None

    @property
    def unknown(self) -> float:
        """Missing passes whose pace is not known."""
        return sum(each.passes for each in self.missing if each.seconds is None)

    def longest(self, count: int) -> list[JobTime]:
        """Missing jobs of the most seconds, or of the most passes where no seconds are known."""
        return sorted(self.missing, key=lambda each: (each.seconds or 0.0, each.passes), reverse=True)[:count]


def time_needed(plan: Plan, store: Store, sizes: Sizes, paces: Paces) -> PlanTime:
    """Every job of a plan with its cost here."""
    return PlanTime(tuple(_job(job, store, sizes, paces) for job in plan.jobs))


def _job(job: Job, store: Store, sizes: Sizes, paces: Paces) -> JobTime:
    passes = job.cost(sizes)
    pace = paces.of(load_of(job)) if passes else 0.0
    return JobTime(job, store.has(job.kind, job.key), passes, None if pace is None else passes * pace)
