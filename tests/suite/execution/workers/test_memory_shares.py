"""Jobs that wait for memory: who is let in, who waits and then runs, and who runs alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qpatchbench.suite.execution.workers import memory_shares
from qpatchbench.suite.execution.workers.dispatcher import Dispatcher
from qpatchbench.suite.execution.workers.memory_shares import USED, MemoryShares
from qpatchbench.suite.execution.workers.messages import Idle, Message
from qpatchbench.suite.execution.workers.processes import Processes
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.needs.job_estimates import estimates_of
from qpatchbench.suite.needs.memory import PROCESS
from qpatchbench.suite.plan.sizes import estimated_sizes
from tests.suite.conftest import MakePlan, MakeSuite
from tests.suite.execution.test_executor import Display
from tests.suite.execution.workers import idle_workers
from tests.suite.execution.workers.words import WordJob, execution_of

SMALL, LARGE, HUGE = (WordJob(word, dear) for word, dear in (("small", 1.0), ("large", 2.0), ("huge", 3.0)))
BYTES = {SMALL: 2.0, LARGE: 8.0, HUGE: 50.0}


def size_of(job: Job) -> float | None:
    assert isinstance(job, WordJob)
    return next((size for known, size in BYTES.items() if job.word.startswith(known.word)), None)


def shares(*rooms: float) -> MemoryShares:
    return MemoryShares(size_of, 1.0, dict(enumerate(rooms)), lambda number: number % len(rooms))


def test_a_job_is_admitted_where_the_others_leave_room() -> None:
    memory = shares(12.0)
    for number in range(3):
        memory.wait(number)
    assert memory.admit(0, LARGE, busy=False) == ""
    assert memory.admit(1, SMALL, busy=True) == ""  # 8 + 2, and 1 of the third, which waits
    assert memory.admit(2, LARGE, busy=True) is None
    memory.wait(0)
    assert memory.admit(2, LARGE, busy=True) == ""
    assert memory.admit(0, WordJob("unknown"), busy=True) == ""  # as one that waits
    memory.leave(2)
    assert memory.admit(0, LARGE, busy=True) == ""


def test_what_the_whole_machine_cannot_hold_waits_until_it_is_alone_and_says_so() -> None:
    memory = shares(12.0)
    memory.wait(0)
    memory.wait(1)
    assert memory.admit(0, HUGE, busy=True) is None
    told = memory.admit(0, HUGE, busy=False)
    assert told == (
        "word huge: expected about 50 bytes of memory, more than 12 bytes, which is all that workers may take here; it "
        "runs alone"
    )


def test_gpus_are_places_of_their_own() -> None:
    memory = shares(12.0, 9.0)
    assert [memory.beside(0, other) for other in range(4)] == [True, False, True, False]
    assert memory.admit(0, LARGE, busy=False) == ""
    assert memory.admit(1, LARGE, busy=False) == ""
    assert memory.admit(2, LARGE, busy=True) is None
    assert memory.admit(3, SMALL, busy=True) is None
    assert memory.most_workers(4) == 4
    assert memory.most_workers(100) == 21


class Watched(Processes):
    """Processes that note, in order, which jobs they were given and when those were finished."""

    def __init__(self, count: int) -> None:
        super().__init__(count, idle_workers.serve, lambda number: (number,))
        self.at_work: dict[int, str] = {}
        self.together: list[set[str]] = []

    def give(self, number: int, key: str) -> None:
        self.at_work[number] = key
        self.together.append(set(self.at_work.values()))
        super().give(number, key)

    def heard(self) -> Iterator[tuple[int, Message]]:
        for number, message in super().heard():
            if isinstance(message, Idle):
                self.at_work.pop(number, None)
            yield number, message


def test_a_large_job_waits_for_processes_to_leave_memory_and_then_runs(make_suite: MakeSuite, tmp_path: Path) -> None:
    jobs = (*(WordJob(f"large {index}", 2.0) for index in range(3)), *(WordJob(f"small {index}") for index in range(4)))
    execution, crew = execution_of(jobs, make_suite, tmp_path), Watched(2)
    Dispatcher(execution, crew, shares(12.0)).run()
    assert sorted(execution.ran) == sorted(job.word for job in jobs)
    assert execution.errors == {}
    assert all(sum(word.startswith("large") for word in words) < 2 for words in crew.together), crew.together
    first_small = next(place for place, words in enumerate(crew.together) if any("small" in word for word in words))
    assert first_small >= 2, "no small job overtook a large one"


def test_a_job_larger_than_the_machine_runs_alone(make_suite: MakeSuite, tmp_path: Path) -> None:
    jobs = (HUGE, *(WordJob(f"small {index}") for index in range(3)))
    execution, crew = execution_of(jobs, make_suite, tmp_path), Watched(2)
    Dispatcher(execution, crew, shares(12.0)).run()
    assert sorted(execution.ran) == sorted(job.word for job in jobs)
    assert [words for words in crew.together if "huge" in words] == [{"huge"}]
    assert isinstance(execution.display, Display)
    (note,) = execution.display.notes
    assert note.endswith("it runs alone")


def test_no_more_processes_start_than_memory_holds(make_suite: MakeSuite, tmp_path: Path) -> None:
    execution, crew = execution_of((SMALL, LARGE), make_suite, tmp_path), Watched(2)
    Dispatcher(execution, crew, shares(1.5)).run()
    assert sorted(execution.ran) == ["large", "small"]
    assert isinstance(execution.display, Display)
    assert execution.display.notes[0] == "memory is there for 1 of 2 workers; so many are started"


def test_on_this_machine_room_is_what_is_available(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, cpu = plan_of(), torch.device("cpu")
    estimates = estimates_of(plan, estimated_sizes(plan), tmp_path, cpu)
    monkeypatch.setattr(memory_shares, "available_bytes", lambda device: 10 * PROCESS)
    found = MemoryShares.here(estimates, cpu, 0)
    assert found is not None
    assert found.room == {0: USED * 10 * PROCESS}
    assert found.idle == PROCESS
    assert found.most_workers(64) == 9
    monkeypatch.setattr(memory_shares, "available_bytes", lambda device: {0: 1, 1: 2}[device.index])
    assert MemoryShares.here(estimates, torch.device("cuda"), 2).room == {0: USED, 1: 2 * USED}  # type: ignore[union-attr]
    monkeypatch.setattr(memory_shares, "available_bytes", lambda device: None)
    assert MemoryShares.here(estimates, cpu, 0) is None
