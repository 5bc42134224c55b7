"""The common part of all jobs: a kind, a key, a label, what comes before them, and what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from qpatchbench.runs.layout import KEY_DIGITS
from qpatchbench.suite.store.store import key_of


@dataclass(frozen=True)
class DataKeys:
    """What identifies the four parts of a dataset; the planner uses placeholders where data was never read."""

    train: str
    calibration: str
    craft: str
    evaluation: str


@dataclass(frozen=True)
class Sizes:
    """Number of images in each part, for cost estimates; upper bounds where data was never read."""

    train: int
    calibration: int
    craft: int
    evaluation: int


class Job(ABC):
    """One unit of work; its artifact is in the store under its kind and key, and nothing is computed twice.

    Attributes:
        kind: one stem for the job, its work, its artifact and its word on the screen.
        alone: it measures time, and runs while nothing else does.
    """

    kind: ClassVar[str]
    alone: ClassVar[bool] = False

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything that can change the job's result, and nothing else, as JSON-ready data."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it works on, as results and messages call it."""

    @property
    @abstractmethod
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""

    @abstractmethod
    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""

    @property
    def network(self) -> tuple[str, bool]:
        """Title of the model that most of its passes go through, and whether through fake quantizers; "" for none."""
        return "", False

    @property
    def half(self) -> bool:
        """Whether most of its passes compute in bfloat16."""
        return False

    @property
    def fused(self) -> bool:
        """Whether most of its passes run through a compiled network."""
        return False

    @cached_property
    def key(self) -> str:
        """Hash of the identity, 32 hex digits."""
        return key_of(self.identity())

    @property
    def short_key(self) -> str:
        """Start of the key, by which records, file names and messages name the job."""
        return self.key[:KEY_DIGITS]

    @property
    def title(self) -> str:
        """Kind and label, for progress displays and messages."""
        return f"{self.kind} {self.label}"
