"""Workers on a local Ray cluster, and their parts without one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.suite.execution.workers import ray_crew
from qpatchbench.suite.execution.workers.dispatcher import Dispatcher
from qpatchbench.suite.execution.workers.messages import (
    Died,
    Finished,
    Idle,
    Message,
    Noted,
    Progressed,
    Started,
    Stopped,
)
from qpatchbench.suite.execution.workers.ray_crew import RayCrew, share_of
from qpatchbench.suite.execution.workers.ray_driver import Share, cause_of_loss, cores_each, gpu_each
from qpatchbench.suite.execution.workers.ray_worker import RayEars, RayWorker
from qpatchbench.suite.execution.workers.setup import Setup
from qpatchbench.suite.needs.job_estimates import estimates_of
from qpatchbench.suite.needs.plan_needs import plan_needs
from qpatchbench.suite.plan.sizes import estimated_sizes
from qpatchbench.suite.store.store import Store
from tests.suite.conftest import MakePlan, MakeSuite
from tests.suite.execution.test_executor import Display
from tests.suite.execution.workers.idle_setup import IdleSetup
from tests.suite.execution.workers.words import WordJob, execution_of

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'qpatchbench[ray]'"
)


class Remote:
    """Stands in for the handle of an actor's method."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def remote(self, *told: object) -> None:
        self.told.append(told)


class Ears:
    """Stands in for the handle of `RayEars`."""

    def __init__(self) -> None:
        self.tell = Remote()


def worker_of(folder: Path, ears: Ears, *, token: bool = True) -> RayWorker:
    """One that is no actor."""
    path = folder / "token"
    if token:
        path.touch()
    return RayWorker(1, pickle.dumps(IdleSetup(folder)), folder, path, ears)


def test_a_worker_answers_what_it_tells_and_sends_progress_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ears = Ears()
    worker = worker_of(tmp_path, ears)
    assert worker.begin() == []
    assert worker.attempt("a") == [Finished("a", 1.0)]
    assert worker.attempt("b") == [Finished("b", 1.0)]
    assert ears.tell.told == [(1, Progressed(key, 0.5, {"loss": 1.0})) for key in "ab"]


@pytest.mark.parametrize(
    ("key", "stopped"),
    [("full", Stopped("the disk is full", storage=True)), ("broken", Stopped("no such thing", storage=False))],
)
def test_an_error_that_is_no_jobs_own_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, stopped: Stopped
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = worker_of(tmp_path, Ears())
    worker.begin()
    assert worker.attempt(key) == [stopped]


def test_a_node_that_does_not_see_the_store_is_told(tmp_path: Path) -> None:
    (told,) = worker_of(tmp_path, Ears(), token=False).begin()
    assert isinstance(told, Stopped)
    assert told.text.startswith(f"{tmp_path}: expected the store of the run on ")


def test_ears_wait_until_something_is_told() -> None:
    async def listened() -> list[Any]:
        ears = RayEars()
        waiting = asyncio.create_task(ears.heard())
        await asyncio.sleep(0)
        assert not waiting.done()
        await ears.tell(0, Idle())
        await ears.tell(1, Idle())
        first = await waiting
        await ears.tell(2, Idle())
        return [first, await ears.heard()]

    assert asyncio.run(listened()) == [[(0, Idle()), (1, Idle())], [(2, Idle())]]


@pytest.mark.parametrize(
    ("nodes", "workers", "cores"),
    [([8], 2, 4), ([8], 3, 2), ([16, 16], 2, 16), ([16, 16], 3, 8), ([16, 4], 3, 5), ([2], 4, 1), ([], 1, 1)],
)
def test_workers_get_as_many_cores_as_fit_on_their_nodes(nodes: list[int], workers: int, cores: int) -> None:
    assert cores_each(nodes, workers) == cores
    assert cores == 1 or sum(node // cores for node in nodes) >= workers


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(1, 6, 0.1666), (8, 16, 0.5), (8, 12, 0.5), (8, 8, 1.0), (8, 3, 1.0), (0, 2, 0.5), (1, 3, 0.3333)],
)
def test_all_workers_fit_on_the_gpus(gpus: int, workers: int, share: float) -> None:
    assert gpu_each(gpus, workers) == share
    assert max(1, gpus) * int(1 / share) >= workers


def test_the_cause_of_a_loss_is_one_line() -> None:
    text = "The actor died.\n\tpid: 3\nIts worker process has died. Exit type: X. Some common causes include: (1) ...\n"
    assert cause_of_loss(RuntimeError(text)) == "Its worker process has died. Exit type: X"
    assert cause_of_loss(RuntimeError()) == "RuntimeError"


def test_without_ray_its_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QPatchBenchError, match=r"expected Ray, found none; pip install 'qpatchbench\[ray\]'"):
        RayCrew(cast("Setup", IdleSetup(tmp_path)), 1, None)


def test_a_share_is_what_the_largest_job_takes(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of()
    cpu = torch.device("cpu")
    estimates = estimates_of(plan, estimated_sizes(plan), tmp_path, cpu)
    needs = plan_needs(plan, Store(tmp_path), estimates, cpu, tmp_path, read=True)
    assert needs.largest is not None
    assert needs.largest.memory is not None
    assert share_of(needs) == Share(memory=needs.largest.memory)
    on_gpu = replace(needs, of_gpu=int(4 * needs.largest.memory))
    assert share_of(on_gpu).memory == needs.host
    assert share_of(on_gpu).gpu == pytest.approx(0.25)


@needs_ray
def test_workers_whose_memory_no_node_has_take_one_whole_and_the_second_waits(
    make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    crew = RayCrew(cast("Setup", IdleSetup(tmp_path)), 2, None, Share(memory=1e15))
    execution = execution_of((WordJob("a"), WordJob("b"), WordJob("where")), make_suite, tmp_path)
    workers: set[int] = set()
    give = crew.give

    def noted(number: int, key: str) -> None:
        workers.add(number)
        give(number, key)

    monkeypatch.setattr(crew, "give", noted)
    Dispatcher(execution, crew).run()
    assert sorted(execution.ran) == ["a", "b", "where"]
    assert len(workers) == 1, "the node holds one such worker"
    assert isinstance(execution.display, Display)
    assert execution.display.notes[0].startswith(
        "a job is expected to take about 1000000.0 GB of memory, more than any "
    )


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCrew]:
    """One worker on a local cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "3")
        found = RayCrew(cast("Setup", IdleSetup(tmp_path_factory.mktemp("ray"))), 1, None)
    try:
        yield found
    finally:
        found.end()


def told(crew: RayCrew, count: int) -> list[tuple[int, Message]]:
    """The next `count` messages but those of progress."""
    found: list[tuple[int, Message]] = []
    while len(found) < count:
        found += [each for each in crew.heard() if not isinstance(each[1], Progressed)]
    return found


@needs_ray
def test_an_actor_does_what_it_is_given_dies_and_is_replaced(crew: RayCrew) -> None:
    assert crew.workers == 1
    crew.start(0)
    assert told(crew, 1) == [(0, Idle())]
    crew.give(0, "where")
    here = Noted(f"{Path.cwd()} 3 ")
    assert told(crew, 4) == [(0, Started("where")), (0, here), (0, Finished("where", 1.0)), (0, Idle())]
    crew.give(0, "kill")
    started, (_, died) = told(crew, 2)
    assert started == (0, Started("kill"))
    assert isinstance(died, Died)
    assert "worker process has died" in died.cause
    assert not died.blameless
    crew.start(0)
    assert told(crew, 1) == [(0, Idle())]


@needs_ray
def test_a_lost_driver_is_no_fault_of_the_jobs(crew: RayCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    crew.give(0, "sleep")
    os.kill(crew.driver_id, signal.SIGKILL)
    assert told(crew, 2) == [(0, Started("sleep")), (0, Died("the loss of its Ray cluster", blameless=True))]
    monkeypatch.setattr(ray_crew, "MOST_LOSSES", 1)
    with pytest.raises(QPatchBenchError, match="was lost 2 times before a single job was finished"):
        told(crew, 1)
