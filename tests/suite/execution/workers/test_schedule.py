"""Which job runs next: readiness, the longest chain, networks that a worker holds, and jobs that run alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qpatchbench.suite.execution.workers.schedule import Schedule, networks_of
from qpatchbench.suite.jobs.base import Job, Sizes
from tests.suite.conftest import MakePlan

SIZES = Sizes(1, 1, 1, 1)


@dataclass(frozen=True)
class Chore(Job):
    """A job of a given cost."""

    name: str
    weight: float = 1.0
    before: tuple[Job, ...] = ()

    kind: ClassVar[str] = "chore"

    def identity(self) -> Mapping[str, Any]:
        return {"chore": self.name}

    @property
    def label(self) -> str:
        return self.name

    @property
    def upstream(self) -> tuple[Job, ...]:
        return self.before

    def cost(self, sizes: Sizes) -> float:
        return self.weight


@dataclass(frozen=True)
class Timed(Chore):
    """One that measures time."""

    alone: ClassVar[bool] = True


def names_in_order(schedule: Schedule) -> list[str]:
    """One worker takes everything."""
    found = []
    while (job := schedule.take()) is not None:
        found.append(job.label)
        schedule.done(job)
    return found


def test_the_longest_chain_goes_first() -> None:
    short = Chore("short", 5)
    start = Chore("start", 1)
    end = Chore("end", 9, (start,))
    schedule = Schedule([short, start, end], SIZES)
    assert names_in_order(schedule) == ["start", "end", "short"]
    assert not schedule.left


def test_a_job_waits_for_all_that_it_needs() -> None:
    first, second = Chore("first", 2), Chore("second", 1)
    last = Chore("last", 1, (first, second))
    schedule = Schedule([first, second, last], SIZES)
    one, two = schedule.take(), schedule.take()
    assert (one, two, schedule.take()) == (first, second, None)
    schedule.done(second)
    assert schedule.take() is None
    schedule.done(first)
    assert schedule.take() == last


def test_what_is_finished_already_is_not_waited_for() -> None:
    last = Chore("last", 1, (Chore("finished"),))
    assert Schedule([last], SIZES).take() == last


def test_what_waits_for_a_failed_job_never_runs() -> None:
    first = Chore("first")
    schedule = Schedule([first, Chore("last", 1, (first,))], SIZES)
    assert schedule.take() == first
    assert schedule.left
    schedule.failed(first)
    assert schedule.take() is None
    assert not schedule.left


def test_a_lost_job_runs_once_more() -> None:
    only = Chore("only")
    schedule = Schedule([only], SIZES)
    assert schedule.take() == only
    assert schedule.take() is None
    schedule.again(only)
    assert schedule.take() == only


def test_what_measures_time_runs_alone_and_last() -> None:
    timed, other = Timed("timed", 100), Chore("other")
    schedule = Schedule([timed, other], SIZES)
    assert schedule.take() == other
    assert schedule.take() is None, "something runs"
    schedule.done(other)
    assert schedule.take() == timed


def test_costs_of_training_are_measured_alone(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=["qat", "qadtr"], analysis={"costs": "qat"})
    assert {job.kind for job in plan.jobs if job.alone} == {"cost"}


def test_of_equal_priority_a_worker_gets_networks_that_it_holds(plan_of: MakePlan) -> None:
    cells = plan_of(transfer={"sources": ["all"]}).cells
    last = cells[-1]
    assert networks_of(last) == {last.target.network_key}
    assert networks_of(cells[0]) != networks_of(last)
    schedule = Schedule(cells, SIZES)
    taken = schedule.take({last.target.network_key})
    assert taken is not None
    assert networks_of(taken) == networks_of(last)
    assert schedule.take() == cells[0]


def test_ten_thousand_jobs_are_scheduled_in_no_time() -> None:
    """Each costs the same number of steps however many there are: a quadratic schedule would not end here."""
    start = Chore("start")
    jobs = [start, *(Chore(str(number), 1, (start,)) for number in range(10_000))]
    assert len(names_in_order(Schedule(jobs, SIZES))) == len(jobs)
