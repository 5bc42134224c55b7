"""Fields of a cell besides its counts, held against its patch file and its network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qpatchbench.evaluation.checks.artifacts import certificates_hold
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.records import CellRecord
from qpatchbench.statistics.intervals import Array
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.verification.rebuilding import Rebuilt, same_machine
from qpatchbench.suite.work.evaluate import covered
from qpatchbench.types import ImageSet, Patch, Placement


def same_numbers(ours: Array, theirs: Array | None, order: Array) -> bool:
    """Whether numbers of a patch file, in the order of the dataset, are those of a cell, in that of the ids."""
    return theirs is not None and np.array_equal(ours.reshape(theirs.shape)[:, order], theirs)


def measured_findings(
    run: Rebuilt,
    job: EvaluateJob,
    patch: Patch,
    record: CellRecord,
    again: Array,
    placements: list[Placement],
    images: ImageSet,
) -> Iterator[str]:
    """What a record says besides its counts and is not what its patch and its network give."""
    expected: dict[str, object] = {"places": "given" if patch.placement is None else "chosen"}
    certified = covered(job, run.network(job.target), placements)
    expected["n_certified"] = None if certified is None else int(certified.sum())
    labels, clean = images.labels.cpu().numpy(), run.network(job.target).arrays["predictions"]
    if certified is not None:
        run.certificates[job.short_key] = certificates_hold(certified, labels, clean, again)
    for name, value in expected.items():
        if getattr(record, name) != value and (name != "n_certified" or same_machine(run, [job.key])):
            yield f"{name}: expected {value}, as patch and network give it, found {getattr(record, name)}"


def left_alone_findings(
    job: EvaluateJob, patch: Patch, before: StoredOutcomes, clean: Array, order: Array
) -> Iterator[str]:
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
