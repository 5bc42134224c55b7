"""Memory that workers hold at once, and whether a job fits into what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qpatchbench.runs.files import size_text
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.needs.job_estimates import Estimates
from qpatchbench.suite.needs.memory import PROCESS
from qpatchbench.suite.needs.observed_peak import CONTEXT
from qpatchbench.suite.needs.room import available_bytes

if TYPE_CHECKING:
    import torch

USED = 0.9  # of what is available; the rest is for what other processes do


@dataclass
class MemoryShares:
    """Who holds how much, by the estimates of jobs.

    Attributes:
        of: bytes that a worker holds while it does a job; None where nobody knows, which counts as a worker that waits.
        idle: bytes that a worker holds while it waits.
        room: bytes that workers may hold together, at each place: the machine, or one of its GPUs.
        place: number of a worker -> where it computes.
        held: number of a worker -> bytes.
    """

    of: Callable[[Job], float | None]
    idle: float
    room: Mapping[int, float]
    place: Callable[[int], int]
    held: dict[int, float] = field(default_factory=dict)

    @classmethod
    def here(cls, estimates: Estimates, device: torch.device, devices: int) -> MemoryShares | None:
        """Those of processes on this machine; None where it does not tell its memory.

        Args:
            estimates: of the jobs, on that device.
            device: where workers compute; one GPU stands for all `devices`, which workers take in turn.
            devices: how many GPUs workers share.
        """
        import torch

        places = [torch.device(device.type, index) for index in range(devices)] if device.type == "cuda" else [device]
        if device.index is not None:
            places = [device]
        found = {index: available_bytes(place) for index, place in enumerate(places)}
        room = {index: USED * size for index, size in found.items() if size is not None}
        if len(room) < len(places):
            return None
        idle = PROCESS if device.type == "cpu" else CONTEXT
        return cls(estimates.memory, idle, room, lambda number: number % len(places))

    def most_workers(self, asked: int) -> int:
        """How many workers there is memory for, but one at least."""
        there = sum(max(1, int(size // self.idle)) for size in self.room.values())
        return max(1, min(asked, there))

    def wait(self, number: int) -> None:
        """A worker waits for a job."""
        self.held[number] = self.idle

    def leave(self, number: int) -> None:
        """A worker is gone."""
        self.held.pop(number, None)

    def admit(self, number: int, job: Job, busy: bool) -> str | None:
        """Count a job as the worker's, if it fits into what the others leave of the worker's place.

        One that would not fit even there alone is let in while nothing else runs. An estimate is no measurement: to
        refuse the job would turn a wrong one into an error.

        Args:
            number: of the worker.
            job: it is to do.
            busy: whether another worker of the same place is at work.

        Returns:
            "" where it fits, what a person should know where it does not and runs alone, None where it has to wait.
        """
        size = max(self.of(job) or 0.0, self.idle)
        place = self.place(number)
        others = sum(held for other, held in self.held.items() if other != number and self.place(other) == place)
        fits = others + size <= self.room[place]
        if not fits and busy:
            return None
        self.held[number] = size
        if fits or size <= self.room[place]:
            return ""
        return (
            f"{job.title}: expected about {size_text(size)} of memory, more than {size_text(self.room[place])}, which "
            "is all that workers may take here; it runs alone"
        )

    def beside(self, number: int, other: int) -> bool:
        """Whether two workers share a place."""
        return self.place(number) == self.place(other)
