"""Processes that are fed, that die, that are ended, and that end with the run that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from qpatchbench.suite.execution.workers.messages import Died, Finished, Idle, Message, Noted
from qpatchbench.suite.execution.workers.processes import Processes, cause_of_death, cores
from tests.suite.execution.workers import idle_workers


@contextlib.contextmanager
def crew_of(count: int) -> Iterator[Processes]:
    """A crew that is ended."""
    crew = idle_workers.crew_of(count)
    try:
        for number in range(count):
            crew.start(number)
        yield crew
    finally:
        crew.end()
    assert multiprocessing.active_children() == []


def told(crew: Processes, count: int) -> list[tuple[int, Message]]:
    """The next `count` messages."""
    found: list[tuple[int, Message]] = []
    while len(found) < count:
        found += crew.heard()
    return found


def test_each_worker_does_what_it_is_given() -> None:
    with crew_of(2) as crew:
        assert sorted(told(crew, 2)) == [(0, Idle()), (1, Idle())]
        for number, key in ((1, "a"), (0, "b")):
            crew.give(number, key)
            assert told(crew, 2) == [(number, Finished(key, float(number))), (number, Idle())]


@pytest.mark.parametrize(
    ("key", "cause"), [("kill", "signal 9 (SIGKILL, perhaps for want of memory)"), ("exit", "exit code 3")]
)
def test_a_death_is_heard_and_another_takes_the_place(key: str, cause: str) -> None:
    with crew_of(1) as crew:
        told(crew, 1)
        crew.give(0, key)
        assert told(crew, 1) == [(0, Died(cause))]
        crew.start(0)
        assert told(crew, 1) == [(0, Idle())]


def test_a_key_for_a_dead_worker_is_heard_as_its_death() -> None:
    with crew_of(1) as crew:
        told(crew, 1)
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        crew.give(0, "a")
        assert told(crew, 1) == [(0, Died(cause_of_death(-9)))]


@pytest.mark.parametrize("given", [None, "5"])
def test_workers_share_the_cores_unless_threads_are_given(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    with crew_of(1) as crew:
        told(crew, 1)
        assert os.environ.get("OMP_NUM_THREADS") == given
        crew.give(0, "threads")
        assert told(crew, 1)[0] == (0, Noted(given or str(cores())))


def test_ending_does_not_wait_for_jobs() -> None:
    with crew_of(2) as crew:
        told(crew, 2)
        crew.give(0, "sleep")
        started = time.monotonic()
    assert time.monotonic() - started < 60


def test_workers_die_with_the_run_that_started_them() -> None:
    command = [sys.executable, "-m", idle_workers.__name__, "2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    workers = [int(run.stdout.readline()) for _ in range(2)]
    assert all(lives(worker) for worker in workers)
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 30
    while any(lives(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their run"
        time.sleep(0.02)


def lives(process: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
