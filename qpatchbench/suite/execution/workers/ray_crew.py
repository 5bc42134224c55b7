"""A crew of actors on a Ray cluster, through a driver that may be lost and started again."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qpatchbench.errors import QPatchBenchError
from qpatchbench.runs.files import write_atomically
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
from qpatchbench.suite.execution.workers.processes import cause_of_death, cores
from qpatchbench.suite.execution.workers.ray_driver import Cluster, Joined, Share, drive
from qpatchbench.suite.execution.workers.setup import Setup
from qpatchbench.suite.needs.plan_needs import PlanNeeds

PATIENCE = 300.0  # seconds that a cluster may be away once it has been there
RETRIES = 2  # of a driver that dies before it has joined a cluster
MOST_LOSSES = 5
NOTHING_KNOWN = Share()
LAST_WORDS = 20.0  # seconds that a driver has to end its cluster


class RayCrew:
    """Ray actors.

    Attributes:
        workers: how many there shall be.
    """

    def __init__(self, setup: Setup, workers: int | None, address: str | None, share: Share = NOTHING_KNOWN) -> None:
        """Start or join a cluster.

        Args:
            setup: the run; its device is auto, cpu or cuda.
            workers: how many there shall be; None: one for each core of the cluster.
            address: of a cluster to join; None: a local one is started.
            share: what each worker takes of a node.

        Raises:
            QPatchBenchError: Ray is not installed, or there is no such cluster.
            StorageError: the store cannot be written.
        """
        if importlib.util.find_spec("ray") is None:
            raise QPatchBenchError("--executor ray: expected Ray, found none; pip install 'qpatchbench[ray]'")
        self._setup = setup
        self._token = write_atomically(setup.cache / "locks" / f"run-{uuid.uuid4().hex}", b"")
        threads = os.environ.get("OMP_NUM_THREADS", "")
        self._cluster = Cluster(
            address=address,
            workers=workers,
            threads=int(threads) if threads.isdigit() and int(threads) else None,
            gpu={"auto": None, "cpu": False}.get(setup.device, True),
            folder=Path.cwd(),
            token=self._token,
            cores=cores(),
            share=share,
        )
        self._given: dict[int, str] = {}
        self._news: list[tuple[int, Message]] = []
        self._members: set[int] = set()
        self._remark = ""
        self._losses = 0  # of drivers, since a job was finished last
        try:
            self._connect()
        except BaseException:
            self.end()
            raise
        self._cluster = replace(self._cluster, workers=self.workers, patience=PATIENCE)

    @property
    def driver_id(self) -> int:
        """Process id of the driver."""
        return self._driver.pid or 0

    def start(self, number: int) -> None:
        """Ask for an actor."""
        if not self._driver.is_alive():
            self._connect()
        self._members.add(number)
        self._command("start", number)

    def give(self, number: int, key: str) -> None:
        """Call an actor."""
        self._given[number] = key
        self._news.append((number, Started(key)))
        self._command("give", number, key)

    def heard(self) -> Iterator[tuple[int, Message]]:
        """What actors answered; without the driver all of them are lost."""
        news, self._news = self._news, []
        yield from news
        if news:
            return
        try:
            number, message = self._connection.recv()
        except (EOFError, OSError):
            yield from self._lost()
            return
        if isinstance(message, Finished):
            self._losses = 0
        elif isinstance(message, Died):
            self._members.discard(number)
        elif isinstance(message, Progressed) and self._given.get(number) != message.key:
            return  # progress comes another way than answers, and this comes late
        elif isinstance(message, Idle):
            self._given.pop(number, None)
        yield number, message

    def end(self) -> None:
        """Let the driver end all actors, and a local cluster with them."""
        self._token.unlink(missing_ok=True)
        if hasattr(self, "_driver"):
            self._command("end")
            self._connection.close()
            self._driver.join(LAST_WORDS)
            self._driver.kill()
            self._driver.join()

    def _connect(self) -> None:
        for _ in range(1 + RETRIES):
            self._drive()
            try:
                told: Any = self._connection.recv()
            except (EOFError, OSError):
                self._driver.join()
                continue
            if isinstance(told, Joined):
                self.workers = told.workers
                if told.remark and told.remark != self._remark:
                    self._remark = told.remark
                    self._news.append((0, Noted(told.remark)))
                return
            _, message = told
            assert isinstance(message, Stopped)
            raise QPatchBenchError(message.text)
        raise QPatchBenchError(
            f"expected a Ray cluster, found that its driver ended at once, {1 + RETRIES} times, the last with "
            f"{cause_of_death(self._driver.exitcode)}"
        )

    def _drive(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._driver = context.Process(
            target=drive, args=(theirs, self._cluster, pickle.dumps(self._setup)), name="Ray driver"
        )
        self._driver.start()
        theirs.close()

    def _lost(self) -> Iterator[tuple[int, Message]]:
        self._driver.kill()
        self._driver.join()
        self._connection.close()
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise QPatchBenchError(f"the Ray cluster was lost {self._losses} times before a single job was finished")
        lost, self._members = self._members, set()
        for number in lost:
            yield number, Died("the loss of its Ray cluster", blameless=True)

    def _command(self, *words: object) -> None:
        with contextlib.suppress(OSError):  # a driver that is gone is heard of later
            self._connection.send(words)


def share_of(needs: PlanNeeds) -> Share:
    """What the largest missing job takes of a node's memory, or of a GPU where jobs compute on one here."""
    largest = 0.0 if needs.largest is None else needs.largest.memory or 0.0
    if needs.of_gpu is None:
        return Share(memory=largest)
    return Share(memory=needs.host, gpu=largest / needs.of_gpu)
