"""A worker on a Ray cluster: an actor that attempts the job whose key it is given, and answers with what it tells.

Torch is loaded once there is work: the driver and the listener import this too, and would load it for nothing.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.suite.execution.libraries import keep_memory
from qpatchbench.suite.execution.workers.messages import Message, Progressed, Started, Stopped, Telling

if TYPE_CHECKING:
    from qpatchbench.suite.execution.workers.setup import Setup

NOT_SO_OFTEN = 1.0  # seconds between two messages on the progress of a job: each passes through four processes


class RayWorker:
    """The actor; Ray gives it cores and a share of a GPU."""

    def __init__(self, number: int, setup: bytes, folder: Path, token: Path, ears: Any) -> None:  # noqa: ANN401 (a handle)
        """Remember the run.

        Args:
            number: of the worker.
            setup: of the run, a pickled `Setup`.
            folder: working folder of the run, which relative paths in the suite start from.
            token: a file that the run wrote into the store; where it is missing, the store is another.
            ears: hears the progress of jobs; the handle of a `RayEars`.
        """
        self.number, self.packed, self.folder, self.token, self.ears = number, setup, folder, token, ears
        self.told: list[Message] = []

    def begin(self) -> list[Message]:
        """Set up; gives nothing, or why that is impossible."""
        from qpatchbench.suite.execution.workers.serve import told_if_stopped

        setup: Setup = pickle.loads(self.packed)
        if setup.address is None and not self.token.is_file():
            return [
                Stopped(
                    f"{setup.cache}: expected the store of the run on {socket.gethostname()} too, found another "
                    "or none; all nodes must see it under this path, or name an address for it",
                    storage=False,
                )
            ]
        keep_memory()
        if self.folder.is_dir():
            os.chdir(self.folder)
        with told_if_stopped(self._tell):
            self.execution = setup.execution(Telling(self._tell, {}, NOT_SO_OFTEN))
            self.jobs = {job.key: job for job in self.execution.plan.jobs}
        return self._answer()

    def attempt(self, key: str) -> list[Message]:
        """Attempt a job; gives all that is told of it but its start and its progress."""
        from qpatchbench.suite.execution.workers.serve import told_if_stopped

        with told_if_stopped(self._tell):
            self.execution.attempt(self.jobs[key])
        return self._answer()

    def _tell(self, message: Message) -> None:
        if isinstance(message, Progressed):
            self.ears.tell.remote(self.number, message)
        elif not isinstance(message, Started):  # who gave the job knows
            self.told.append(message)

    def _answer(self) -> list[Message]:
        told, self.told = self.told, []
        return told


class RayEars:
    """An actor that keeps what workers tell while they are at work, until the run asks."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Message]] = []
        self.some = asyncio.Event()

    async def tell(self, number: int, message: Message) -> None:
        """Keep a message."""
        self.told.append((number, message))
        self.some.set()

    async def heard(self) -> list[tuple[int, Message]]:
        """What was told since the last time; waits until there is something."""
        await self.some.wait()
        told, self.told = self.told, []
        self.some.clear()
        return told
