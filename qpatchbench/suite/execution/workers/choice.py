"""The choice of a crew, as the command line states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from qpatchbench.suite.execution.workers.dispatcher import Crew
    from qpatchbench.suite.execution.workers.memory_shares import MemoryShares
    from qpatchbench.suite.execution.workers.setup import Setup
    from qpatchbench.suite.needs.job_estimates import Estimates
    from qpatchbench.suite.needs.plan_needs import PlanNeeds


@dataclass(frozen=True)
class CrewChoice:
    """Who works.

    Attributes:
        ray: actors on a Ray cluster; otherwise processes on this machine.
        workers: how many; None: one for each core.
        ray_address: of the cluster; None: a local one.
    """

    ray: bool
    workers: int | None
    ray_address: str | None

    def device_here(self, device: str) -> str:
        """Where this process computes what is left to it: a cluster may have GPUs where this machine has none."""
        return "auto" if self.ray and device == "cuda" else device

    def memory_here(self, estimates: Estimates, device: torch.device, devices: int) -> MemoryShares | None:
        """What processes on this machine may hold at once; None on a cluster, whose own scheduler sees to that."""
        from qpatchbench.suite.execution.workers.memory_shares import MemoryShares

        return None if self.ray else MemoryShares.here(estimates, device, devices)

    def hired(self, setup: Setup, needs: PlanNeeds) -> Crew:
        """The crew.

        Args:
            setup: the run.
            needs: of the plan, which workers on a cluster declare.

        Raises:
            QPatchBenchError: Ray is not installed, or there is no such cluster.
            StorageError: the store cannot be written.
        """
        if self.ray:
            from qpatchbench.suite.execution.workers.ray_crew import RayCrew, share_of

            return RayCrew(setup, self.workers, self.ray_address, share_of(needs))
        from qpatchbench.suite.execution.workers.processes import Processes, cores
        from qpatchbench.suite.execution.workers.serve import serve

        return Processes(self.workers or cores(), serve, lambda number: (setup.of_worker(number),))
