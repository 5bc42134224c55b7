"""The networks and cells of a run, as its suite describes them, ready to be measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.runs.records import Check
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.store.provenance import device_name, versions
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.suite.verification.asked import own_suite
from qpatchbench.suite.verification.strangers import Unavailable, expect_known, harmless, is_key
from qpatchbench.suite.work.deploy import deployed
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys


@dataclass(frozen=True)
class Rebuilt:
    """A run's networks and cells as its suite describes them, and where its patches lie.

    Attributes:
        networks: by key, what measuring them again gave.
        certificates: by short key of a cell, what was found of its certified images.
    """

    bench: Workbench
    plan: Plan
    manifest: Mapping[str, Any]
    folder: Path
    networks: dict[str, Artifact] = field(default_factory=dict)
    certificates: dict[str, Check] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[EvaluateJob, ...]:
        """The evaluations that the suite asks for."""
        return self.plan.cells

    def network(self, job: DeployJob) -> Artifact:
        """A network measured again on clean images, with its checks; once."""
        if job.key not in self.networks:
            self.networks[job.key] = deployed(self.bench, job)
        return self.networks[job.key]


def rebuilt(
    folder: Path,
    manifest: Mapping[str, Any],
    cache: Path,
    data_dir: Path,
    device: torch.device,
    *,
    suite: Suite | None = None,
    decode: bool = False,
    run_code: bool = False,
) -> Rebuilt:
    """What is needed to predict again.

    Args:
        folder: of the run.
        manifest: of the run.
        cache: where checkpoints are.
        data_dir: where datasets lie.
        device: where to compute.
        suite: the one that the run has to have followed; None: the manifest's own.
        decode: whether its own suite may have images decoded.
        run_code: whether source files that its own suite names may run.

    Raises:
        Unavailable: no checkpoint of the run is in the cache, its images are not there or are others, or its suite
            names a component that is not at hand.
    """
    store = Store(cache)
    checkpoints = [str(entry.get("key")) for entry in manifest.get("checkpoints", ())]
    if not any(store.has(TrainJob.kind, key) for key in checkpoints if is_key(key)):
        raise Unavailable(f"none of the {len(checkpoints)} checkpoints is in {cache}")
    if suite is None:
        suite = harmless(own_suite(manifest), data_dir, cache, decode=decode, run_code=run_code)
    try:
        bench = Workbench(suite, store, data_dir, device)
        source = Source("manifest.json")
        weights = weights_keys(suite, source, cache)
        expect_known(weights)
        plan = make_plan(suite, loaded_data_keys(bench, source), weights)
    except QPatchBenchError as error:
        raise Unavailable(str(error)) from None
    found, named = bench.splits(suite.models[0]).fingerprints, manifest.get("dataset_fingerprint")
    if found != named:
        parts = [name for name in found if found[name] != (named or {}).get(name)]
        raise Unavailable(f"the images found in {data_dir} are not those of the run: {', '.join(parts)} differ")
    return Rebuilt(bench, plan, manifest, folder)


def same_machine(run: Rebuilt, keys: list[str]) -> bool:
    """Whether jobs were done by this torch on a device like this one."""
    devices = {str(job.get("key")): job.get("device") for job in run.manifest.get("jobs", ())}
    here = device_name(run.bench.device)
    same = run.manifest.get("versions", {}).get("torch") == versions()["torch"]
    return same and all(devices.get(key) == here for key in keys)
