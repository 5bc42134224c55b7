"""From a few facts that travel to the same suite, plan and workbench in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.errors import QPatchBenchError
from qpatchbench.registry import load_plugin, loaded_plugins
from qpatchbench.runs.standard_folders import cache_place
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.execution.workers.messages import Telling
from qpatchbench.suite.file.load import suite_from
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.plan.plan import make_plan
from qpatchbench.suite.store.published_store import opened_store

if TYPE_CHECKING:
    from qpatchbench.suite.work.workbench import Workbench


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know of a run.

    Attributes:
        name: how messages call the suite file.
        typed: the suite as its author wrote it, overrides included.
        folder: where its file lies, to which the files that it names are relative; None: it has none.
        plugins: modules and files that register components, in order.
        data_keys: model title -> hashes of the images.
        weights: model title -> hash of the weights it starts from.
        plan_key: of the plan that all of this must give.
        data_dir: where datasets lie.
        cache: folder of the store.
        device: where to compute.
        devices: how many GPUs there are, which workers take in turn where `device` is just cuda.
        time_limit: seconds after which a job is given up; None: never.
        address: where artifacts are published; then each machine has a folder of its own. None: all share `cache`.
    """

    name: str
    typed: Mapping[str, Any]
    folder: Path | None
    plugins: tuple[str, ...]
    data_keys: Mapping[str, DataKeys]
    weights: Mapping[str, str]
    plan_key: str
    data_dir: Path
    cache: Path
    device: str
    devices: int = 1
    time_limit: float | None = None
    address: str | None = None

    @classmethod
    def of(
        cls,
        execution: Execution,
        bench: Workbench,
        source: Source,
        data_keys: Mapping[str, DataKeys],
        weights: Mapping[str, str],
        device: str,
    ) -> Setup:
        """What workers need to do the jobs of `execution`, which `bench` could do too."""
        import torch

        return cls(
            name=source.name,
            typed=source.data,
            folder=source.folder.absolute() if source.folder is not None else None,
            plugins=loaded_plugins(),
            data_keys=data_keys,
            weights=weights,
            plan_key=execution.plan.key,
            data_dir=bench.data_dir.absolute(),
            cache=bench.store.root.absolute(),
            device=device,
            devices=torch.cuda.device_count(),
            time_limit=execution.time_limit,
            address=bench.store.address,
        )

    def of_worker(self, number: int) -> Setup:
        """The same, on the GPU of the worker with that number."""
        return replace(self, device=f"cuda:{number % max(1, self.devices)}") if self.device == "cuda" else self

    def execution(self, telling: Telling) -> Execution:
        """An execution of the same plan, whose jobs are attempted one by one as they are asked for.

        Raises:
            QPatchBenchError: the suite, read again, is another.
        """
        for plugin in self.plugins:
            load_plugin(plugin)
        suite = suite_from(self.typed, self.name, self.folder)
        plan = make_plan(suite, self.data_keys, self.weights)
        if plan.key != self.plan_key:
            raise QPatchBenchError(
                f"{self.name}: expected a worker to plan the jobs that the run planned, found others; a plugin or the "
                "code was changed, run the same command again"
            )
        import torch

        from qpatchbench.suite.execution.device import device_named
        from qpatchbench.suite.work.workbench import Workbench
        from qpatchbench.suite.work.worker import BenchWorker

        device = device_named(self.device)
        if device.index is not None:
            torch.cuda.set_device(device)
        folder = self.cache if self.address is None else cache_place(self.address).folder.absolute()
        bench = Workbench(suite, opened_store(folder, self.address), self.data_dir, device)
        worker = BenchWorker(bench)
        return Execution(plan, bench.store, worker, telling, errors=telling.errors, time_limit=self.time_limit)
