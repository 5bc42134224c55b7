"""A crew of processes on this machine, fed through pipes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from qpatchbench.suite.execution.workers.messages import Died, Message


class _Member(NamedTuple):
    process: SpawnProcess
    connection: Connection


class Processes:
    """Worker processes; each starts anew, because what a GPU has begun cannot be forked.

    Attributes:
        workers: how many there are; they share the cores, unless OMP_NUM_THREADS says how many each may use.
        serve: the main function of worker i, called with a connection and `arguments(i)`; must be picklable.
    """

    def __init__(self, workers: int, serve: Callable[..., None], arguments: Callable[[int], tuple[Any, ...]]) -> None:
        self.workers, self.serve, self.arguments = workers, serve, arguments
        self._members: dict[int, _Member] = {}

    def start(self, number: int) -> None:
        """Start a process."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self.serve, args=(theirs, *self.arguments(number)), name=f"worker {number}")
        with _threads(max(1, cores() // self.workers)):
            process.start()
        theirs.close()  # so that the death of the process is the end of the pipe
        self._members[number] = _Member(process, ours)

    def give(self, number: int, key: str) -> None:
        """Send a key; whether the process still lives is heard later."""
        with contextlib.suppress(OSError):
            self._members[number].connection.send(key)

    def heard(self) -> Iterator[tuple[int, Message]]:
        """What processes told; a process whose pipe ended is dead."""
        numbers = {member.connection: number for number, member in self._members.items()}
        for connection in wait([*numbers]):
            assert isinstance(connection, Connection)
            number = numbers[connection]
            try:
                while connection.poll():
                    yield number, connection.recv()
            except (EOFError, OSError):
                yield number, Died(self._buried(number))

    def end(self) -> None:
        """Kill: what a worker had not finished is not kept, and what it had is on disk."""
        for member in self._members.values():
            member.process.kill()
        for number in [*self._members]:
            self._buried(number)

    def _buried(self, number: int) -> str:
        """What a dead process died of."""
        member = self._members.pop(number)
        member.connection.close()
        member.process.join()
        return cause_of_death(member.process.exitcode)


def cause_of_death(code: int | None) -> str:
    """An exit code in words.

    >>> cause_of_death(-11)
    'signal 11 (SIGSEGV)'
    """
    if code is None or code >= 0:
        return f"exit code {code}"
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"signal {-code} ({signal.Signals(-code).name}{hint})"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """A process that starts inside computes with so many threads, unless the user has said how many."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
