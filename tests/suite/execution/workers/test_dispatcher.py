"""The dispatcher with a crew that computes nothing: failures, deaths, damage, and disks that refuse."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.execution.workers.dispatcher import Dispatcher
from qpatchbench.suite.execution.workers.messages import Died, Idle, Message, Stopped, Telling
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Artifact, Store
from tests.suite.conftest import MakePlan
from tests.suite.execution.test_executor import Display, Worker, damage, job_of


class Crew:
    """Attempts jobs here, the latest given first.

    Attributes:
        workers: how many there shall be.
        deaths: title -> how often its worker dies in it.
        blameless: whether those are no fault of the job.
        stillborn: how many workers die before they wait for a job.
        stop: what a worker tells when it cannot go on.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.jobs = {job.key: job for job in plan.jobs}
        self.worker = Worker(store)
        self.told: deque[tuple[int, Message]] = deque()
        self.given: list[tuple[int, str]] = []
        self.deaths: dict[str, int] = {}
        self.blameless = False
        self.stillborn = 0
        self.stop: Stopped | None = None
        self.workers = 0
        self.started: list[int] = []
        self.most = 0
        self.ended = False
        telling = Telling(lambda message: self.told.append((self.number, message)), {})
        self.number = 0
        self.execution = Execution(plan, store, self.worker, telling, errors=telling.errors)

    def start(self, number: int) -> None:
        self.started.append(number)
        if self.stillborn:
            self.stillborn -= 1
            self.told.append((number, Died("signal 9 (SIGKILL)")))
        else:
            self.told.append((number, self.stop or Idle()))

    def give(self, number: int, key: str) -> None:
        self.given.append((number, key))
        self.most = max(self.most, len(self.given))

    def heard(self) -> Iterator[tuple[int, Message]]:
        if not self.told:
            self._attempt(*self.given.pop())
        while self.told:
            yield self.told.popleft()

    def _attempt(self, number: int, key: str) -> None:
        job, self.number = self.jobs[key], number
        if self.deaths.get(job.title, 0):
            self.deaths[job.title] -= 1
            self.told.append((number, Died("signal 9 (SIGKILL)", self.blameless)))
            return
        self.execution.attempt(job)
        self.told.append((number, Idle()))

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def plan(plan_of: MakePlan) -> Plan:
    """Two models, each: 1 checkpoint, 2 networks, 2 patches, 4 cells and 4 cells of the controls."""
    return plan_of(models=["resnet20", "vgg16"], transfer={"sources": ["all"]})


@pytest.fixture
def crew(plan: Plan, tmp_path: Path) -> Crew:
    return Crew(plan, Store(tmp_path / "cache"))


def dispatched(crew: Crew, workers: int = 3) -> Execution:
    """What a run on that crew gave."""
    execution = Execution(crew.execution.plan, crew.execution.store, crew.worker, Display())
    try:
        crew.workers = workers
        Dispatcher(execution, crew).run()
    finally:
        assert crew.ended
    return execution


def serially(crew: Crew, tmp_path: Path, failing: dict[str, BaseException]) -> Execution:
    """The same in one process, with a store of its own."""
    store = Store(tmp_path / "serial")
    worker = Worker(store)
    worker.failing = failing
    execution = Execution(crew.execution.plan, store, worker, Display())
    execution.run()
    return execution


def notes_of(execution: Execution) -> list[str]:
    assert isinstance(execution.display, Display)
    return execution.display.notes


def events_of(execution: Execution) -> list[tuple[str, str]]:
    assert isinstance(execution.display, Display)
    return execution.display.events


def test_every_job_runs_once_and_after_what_it_needs(crew: Crew) -> None:
    execution = dispatched(crew)
    jobs = {job.key: job for job in execution.plan.jobs}
    assert sorted(execution.ran) == sorted(jobs)
    assert crew.most == 3, "all workers had a job at once"
    for place, key in enumerate(execution.ran):
        assert {earlier.key for earlier in jobs[key].upstream} <= set(execution.ran[:place])


def test_a_second_run_starts_no_worker(crew: Crew, plan: Plan) -> None:
    dispatched(crew)
    second = Crew(plan, crew.execution.store)
    assert dispatched(second).ran == []
    assert second.started == []


def test_failures_are_those_of_the_serial_executor(crew: Crew, plan: Plan, tmp_path: Path) -> None:
    network = job_of(plan, "deploy resnet20 qat qat@4")
    failing: dict[str, BaseException] = {network.title: ValueError("no luck\nmore words")}
    crew.worker.failing = failing
    found, expected = dispatched(crew), serially(crew, tmp_path, failing)
    assert found.errors.keys() == expected.errors.keys()
    assert set(found.ran) == set(expected.ran)
    for key, text in expected.errors.items():
        if key != network.key:
            assert found.errors[key] == text
    assert found.errors[network.key].startswith("Traceback")
    assert found.errors[network.key].endswith("ValueError: no luck\nmore words\n")


@pytest.mark.parametrize("times", [1, 2])
def test_a_job_whose_worker_died_runs_once_more(crew: Crew, plan: Plan, times: int) -> None:
    training = job_of(plan, "train resnet20")
    crew.deaths = {training.title: times}
    execution = dispatched(crew)
    assert execution.errors == {}
    assert sorted(execution.ran) == sorted(job.key for job in plan.jobs)
    assert len(crew.started) == 3 + times
    assert (
        notes_of(execution)
        == [f"a worker died of signal 9 (SIGKILL) in {training.title}, which runs once more"] * times
    )


def test_a_job_whose_worker_died_three_times_is_an_error(crew: Crew, plan: Plan) -> None:
    training = job_of(plan, "train resnet20")
    crew.deaths = {training.title: 9}
    execution = dispatched(crew)
    assert execution.errors[training.key] == f"{training.title}: worker died 3 times: signal 9 (SIGKILL)"
    assert ("failed", training.title) in events_of(execution)
    assert crew.deaths == {training.title: 6}
    network = job_of(plan, "deploy resnet20 qat qat@4")
    assert execution.errors[network.key].startswith(f"not started, because {training.title!r} failed: ")
    assert {job.key for job in plan.jobs} == {*execution.ran, *execution.errors}
    assert job_of(plan, "deploy vgg16 qat qat@4").key in execution.ran


def test_a_loss_that_is_no_fault_of_the_job_does_not_count(crew: Crew, plan: Plan) -> None:
    training = job_of(plan, "train resnet20")
    crew.deaths, crew.blameless = {training.title: 5}, True
    execution = dispatched(crew)
    assert execution.errors == {}
    assert len(notes_of(execution)) == 5


def test_workers_that_die_at_once_end_the_run(crew: Crew) -> None:
    crew.stillborn = 3
    with pytest.raises(QPatchBenchError, match="found 3 in a row that died before: signal 9"):
        dispatched(crew, 1)
    assert crew.worker.asked == []


def test_a_worker_that_dies_at_once_is_replaced(crew: Crew) -> None:
    crew.stillborn = 2
    assert dispatched(crew, 1).errors == {}
    assert crew.started == [0, 0, 0]


def test_a_refusing_disk_stops_the_run(crew: Crew) -> None:
    crew.stop = Stopped("the disk is full", storage=True)
    with pytest.raises(StorageError, match="the disk is full"):
        dispatched(crew)


def test_a_worker_that_cannot_be_set_up_stops_the_run(crew: Crew) -> None:
    crew.stop = Stopped("no such device", storage=False)
    with pytest.raises(QPatchBenchError, match="no such device"):
        dispatched(crew)


def test_what_another_run_made_meanwhile_is_not_made_again(crew: Crew, plan: Plan) -> None:
    other = plan.cells[-1]

    def give(number: int, key: str) -> None:
        crew.execution.store.write(other.kind, other.key, Artifact({"key": np.zeros(1)}, {}))
        crew.given.append((number, key))

    crew.give = give  # type: ignore[method-assign]
    execution = dispatched(crew)
    assert {job.key for job in plan.jobs} - set(execution.ran) == {other.key}
    assert execution.errors == {}


@pytest.mark.parametrize("start", ["train resnet20", "deploy resnet20 qat qat@4"])
def test_a_damaged_artifact_is_made_again_before_it_is_used(crew: Crew, plan: Plan, start: str) -> None:
    first = dispatched(crew)
    upstream = job_of(plan, start)
    dependent = next(job for job in plan.jobs if upstream in job.upstream)
    damage(first, upstream)
    first.store.remove(dependent.kind, dependent.key)
    second = Crew(plan, first.store)
    execution = dispatched(second)
    assert execution.errors == {}
    assert second.worker.asked == [upstream.title, dependent.title]
    (note,) = notes_of(execution)
    assert upstream.key in note
    assert note.endswith("it is computed again")


def test_damage_during_the_run_is_mended_by_the_worker(crew: Crew, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    training = job_of(plan, "train resnet20")
    work = crew.worker.work
    done: list[Job] = []

    def damaging(job: Job, progress: object) -> Artifact:
        if training in job.upstream and not done:
            done.append(job)
            damage(crew.execution, training)
        return work(job, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(crew.worker, "work", damaging)
    execution = dispatched(crew)
    assert execution.errors == {}
    assert execution.ran.count(training.key) == 2
    assert len(notes_of(execution)) == 1
