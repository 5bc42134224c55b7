"""Jobs that are words, for workers that compute nothing, and a run of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Store
from tests.suite.conftest import MakeSuite
from tests.suite.execution.test_executor import Display, Worker


@dataclass(frozen=True)
class WordJob(Job):
    """A word; the dearer it is, the sooner it runs."""

    word: str
    dear: float = 1.0

    kind: ClassVar[str] = "word"

    def identity(self) -> Mapping[str, Any]:
        return {"word": self.word}

    @property
    def key(self) -> str:
        """What a worker is told to do."""
        return self.word

    @property
    def label(self) -> str:
        return self.word

    @property
    def upstream(self) -> tuple[Job, ...]:
        return ()

    def cost(self, sizes: Sizes) -> float:
        return self.dear


def execution_of(jobs: tuple[WordJob, ...], make_suite: MakeSuite, folder: Path) -> Execution:
    """A run whose jobs are those, shown by a `Display` of the executor's tests."""
    store = Store(folder / "cache")
    return Execution(Plan(make_suite(), cast("tuple[Job, ...]", jobs)), store, Worker(store), Display())
