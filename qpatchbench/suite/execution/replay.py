"""Stored patches pasted again on networks built from their checkpoints: the predictions must be those of the run.

Nothing is trained and nothing is crafted. The patches are those of the run folder, the places those of the suite, which
must be the stored ones; checkpoints come from the artifact cache and images from their dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from qpatchbench.errors import ArtifactError, QPatchBenchError
from qpatchbench.evaluation.measure import clean_predictions
from qpatchbench.evaluation.repeatability import judged
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.statistics.intervals import Array
from qpatchbench.suite.execution.strangers import Unavailable, expect_known, harmless, is_key
from qpatchbench.suite.file.load import suite_from
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.store.provenance import device_name, versions
from qpatchbench.suite.store.store import Store
from qpatchbench.suite.work.craft import stored_patch
from qpatchbench.suite.work.evaluate import predicted
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
from qpatchbench.types import Patch

StoredOf = Callable[[str], StoredOutcomes]


class Repredicted(NamedTuple):
    """One target network and the cells on it.

    Attributes:
        label: for people.
        cells, predictions: how many were made again; none where the checkpoint is not at hand.
        differ: how many of the predictions are others than those stored.
        findings: what is wrong, one sentence each.
        notes: what differs within the tolerance, or why nothing was made again.
        exact: whether nothing was allowed to differ.
    """

    label: str
    cells: int
    predictions: int
    differ: int
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class Rebuilt:
    """A run's networks and cells as its manifest describes them, and where its patches lie."""

    bench: Workbench
    plan: Plan
    manifest: Mapping[str, Any]
    folder: Path

    @property
    def cells(self) -> tuple[EvaluateJob, ...]:
        """The evaluations that the manifest's suite asks for."""
        return self.plan.cells


def rebuilt(
    folder: Path,
    manifest: Mapping[str, Any],
    cache: Path,
    data_dir: Path,
    device: torch.device,
    *,
    decode: bool = False,
    run_code: bool = False,
) -> Rebuilt:
    """What is needed to predict again.

    Raises:
        Unavailable: no checkpoint of the run is in the cache, its images are not there or are others, or its suite
            names a component that is not at hand.
    """
    store = Store(cache)
    checkpoints = [str(entry.get("key")) for entry in manifest.get("checkpoints", ())]
    if not any(store.has(TrainJob.kind, key) for key in checkpoints if is_key(key)):
        raise Unavailable(f"none of the {len(checkpoints)} checkpoints is in {cache}")
    try:
        if not isinstance(manifest.get("resolved"), dict):
            raise Unavailable("the manifest has no resolved suite")
        suite = suite_from(manifest["resolved"], "manifest.json")
        suite = harmless(suite, data_dir, cache, decode=decode, run_code=run_code)
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


def cell_findings(run: Rebuilt, recorded: set[str]) -> Iterator[str]:
    """Cells that the manifest's suite does not ask for, and cells it asks for that the run lacks."""
    planned = {job.short_key: job.label for job in run.cells}
    for key in sorted(recorded - set(planned)):
        yield (
            f"cells.parquet: cell {key}: expected a cell of the manifest's suite, found one that it does not ask for: "
            "the suite was changed, or another version of a component made the cell"
        )
    for key in sorted(set(planned) - recorded):
        label = planned[key]
        yield f"cells.parquet: expected the cell {key} ({label}), which the manifest's suite asks for, found none"


def repredictions(run: Rebuilt, stored: StoredOf, recorded: set[str]) -> Iterator[Repredicted]:
    """Predict every recorded cell again, network by network."""
    by_network: dict[str, list[EvaluateJob]] = defaultdict(list)
    for job in run.cells:
        if job.short_key in recorded:
            by_network[job.target.key].append(job)
    for jobs in by_network.values():
        yield _repredicted(run, jobs, stored)


def _repredicted(run: Rebuilt, jobs: list[EvaluateJob], stored: StoredOf) -> Repredicted:
    target = jobs[0].target
    exact = same_machine(run, [job.key for job in jobs])
    findings, notes = _checkpoints(run, [target.checkpoint, *(partner.checkpoint for partner in target.partners)])
    if findings or notes:
        return Repredicted(target.label, 0, 0, 0, tuple(findings), tuple(notes), exact)
    images = run.bench.evaluation_images(target.checkpoint.model)
    order = np.argsort(np.array(images.ids))
    ids = tuple(images.ids[place] for place in order)
    clean = clean_predictions(run.bench.answering(target, "clean"), images, run.bench.suite.evaluation.batch_size)
    labels = images.labels.cpu().numpy()[order]
    predictions = differ = 0
    for job in jobs:
        where = f"cell {job.short_key} ({job.label})"
        try:
            before = stored(job.short_key)
        except QPatchBenchError as error:
            findings.append(str(error))
            continue
        if before.ids != ids or not np.array_equal(before.outcomes.labels, labels):
            findings.append(f"outcomes.parquet, {where}: expected the dataset's images and labels, found others")
            continue
        try:
            patch = stored_patch(read_patch(run.folder / patch_file(job.patch.short_key)))
            again, placements = predicted(run.bench, job, patch, images)
        except QPatchBenchError as error:
            findings.append(f"{where}: {error}")
            continue
        for axis in ("rows", "columns"):
            places = np.stack([getattr(placement, axis).numpy() for placement in placements])[:, order]
            wrong = np.argwhere(places != getattr(before, axis))
            if len(wrong):
                goal, image = wrong[0]
                findings.append(
                    f"outcomes.parquet, {where}, image {ids[image]}: {axis[:-1]}: expected {places[goal, image]}, "
                    f"where the suite places the patch, found {getattr(before, axis)[goal, image]}"
                )
        findings += [
            f"outcomes.parquet, {where}: {text}" for text in _left_alone(job, patch, before, clean.numpy(), order)
        ]
        clean_differ = int((clean.numpy()[order] != before.outcomes.clean).sum())
        verdict = judged(before.outcomes, again[:, order], ids, exact=exact)
        predictions, differ = predictions + verdict.predictions, differ + verdict.differ
        if clean_differ:
            text = f"{where}: {clean_differ} of {len(ids)} clean predictions differ"
            (findings if exact else notes).append(f"outcomes.parquet, {text}")
        if verdict.text:
            (notes if verdict.accepted else findings).append(f"outcomes.parquet, {where}: {verdict.text}")
    return Repredicted(target.label, len(jobs), predictions, differ, tuple(findings), tuple(notes), exact)


def _left_alone(job: EvaluateJob, patch: Patch, before: StoredOutcomes, clean: Array, order: Array) -> Iterator[str]:
    """What is wrong with the images that an attack is said to have left alone, which no rate counts.

    Args:
        job: the cell.
        patch: as its file has it.
        before: as the run folder has the cell.
        clean: (N,) predictions of the cell's network without a patch, in the order of the dataset.
        order: (N,) from the order of the dataset to that of the ids.
    """
    shape = before.outcomes.patched.shape
    ours = None if patch.attacked is None else patch.attacked.numpy().reshape(shape)[:, order]
    theirs = before.outcomes.attacked
    same = ours is theirs if ours is None or theirs is None else np.array_equal(ours, theirs)
    if not same:
        yield "attacked: expected the images that the patch file names, found others"
    source = job.patch.source
    if ours is not None and source is not None and source.network_key == job.target.network_key:
        spared = int((~ours & (clean[order] == before.outcomes.labels)).sum())
        if spared and not job.target.quantizer.randomized:
            yield f"attacked: expected every image that the source gets right, found {spared} left alone"


def _checkpoints(run: Rebuilt, jobs: list[TrainJob]) -> tuple[list[str], list[str]]:
    """What is wrong with checkpoints, and which of them are not at hand."""
    named = {entry["key"]: entry for entry in run.manifest.get("checkpoints", ())}
    findings, notes = [], []
    for job in jobs:
        if not run.bench.store.has(job.kind, job.key):
            notes.append(f"not made again: checkpoint {job.short_key} ({job.label}) is not in {run.bench.store.root}")
            continue
        try:
            run.bench.store.read(job.kind, job.key)
        except ArtifactError as error:
            findings.append(str(error))
            continue
        found, expected = run.bench.store.digest(job.kind, job.key), named.get(job.key, {}).get("sha256")
        if found != expected:
            findings.append(
                f"checkpoint {job.short_key} ({job.label}): expected SHA-256 {str(expected)[:16]}..., named by "
                f"manifest.json, found {found[:16]}...: other weights than those of the run"
            )
    return findings, notes


def same_machine(run: Rebuilt, keys: list[str]) -> bool:
    """Whether jobs were done by this torch on a device like this one."""
    devices = {job["key"]: job.get("device") for job in run.manifest.get("jobs", ())}
    here = device_name(run.bench.device)
    same = run.manifest.get("versions", {}).get("torch") == versions()["torch"]
    return same and all(devices.get(key) == here for key in keys)
