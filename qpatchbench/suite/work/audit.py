"""The work of an `AuditJob`, and what its outcomes say."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.checks.budgets import Rung, budget_is_used, gradients_agree, implementations_agree
from qpatchbench.evaluation.measure import fooled_images, patched_predictions
from qpatchbench.ops.patches.pasting import to_uint8
from qpatchbench.quantizers.frozen.surrogate_gradients import identity_gradients
from qpatchbench.runs.records import Check
from qpatchbench.statistics.intervals import Array
from qpatchbench.suite.jobs.audit import (
    AUDITED_IMAGES,
    IDENTITY,
    SECOND,
    WHOLE,
    AuditJob,
    Variant,
    own_gradient,
)
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.craft import patch_of
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import ImageSet, Patch, Progress, Targeted


def audited(bench: Workbench, job: AuditJob, progress: Progress) -> Artifact:
    """Predictions under the cell's own patch and under every variant, on the first evaluation images.

    A variant that the attack refuses to craft, a size it cannot handle for example, is left out with its reason.
    """
    model = job.cell.target.checkpoint.model
    images = bench.evaluation_images(model)[:AUDITED_IMAGES]
    own = bench.store.read(job.cell.patch.kind, job.cell.patch.key)
    target = bench.store.read(job.cell.target.kind, job.cell.target.key)
    cell = bench.store.read(job.cell.kind, job.cell.key)
    count = len(images)
    arrays: dict[str, Any] = {
        "labels": images.labels.cpu().numpy(),
        "clean": target.arrays["predictions"][:count],
        "own": cell.arrays["predictions"][:, :count],
    }
    found: dict[str, dict[str, Any]] = {}
    for index, variant in enumerate(job.variants):

        def overall(fraction: float, figures: Any, index: int = index) -> None:  # noqa: ANN401 (passed on)
            progress((index + fraction) / len(job.variants), figures)

        try:
            patch = _crafted(bench, job, variant, images, overall)
        except QPatchBenchError as error:
            found[variant.name] = {"error": str(error)}
            continue
        if patch is None:
            continue
        arrays[f"variant/{variant.name}"] = _predicted(bench, job, variant, patch, images)
        same = np.array_equal(to_uint8(patch.textures).numpy(), _first(own.arrays["textures"], job, count))
        found[variant.name] = {"same": same, "covers": float(patch.masks.mean())}
    return Artifact(arrays, {"variants": found})


def audit_check(job: AuditJob, artifact: Artifact) -> Check:
    """V11, V12 or V14 of the cell, from what the job left."""
    labels, clean = artifact.arrays["labels"], artifact.arrays["clean"]
    goals = job.cell.patch.goals
    targets = np.array([goal.class_id if isinstance(goal, Targeted) else -1 for goal in goals])
    eligible = ((clean == labels) & (labels != targets[:, None]))[None]

    def fooled(name: str) -> Array:
        return fooled_images(labels, clean, artifact.arrays[name], goals)[None]

    found = artifact.facts["variants"]
    crafted = [variant for variant in job.variants if "same" in found.get(variant.name, {})]
    if job.question == "gradients":
        name = own_gradient(job.cell.patch.attack)
        others = {variant.name: fooled(f"variant/{variant.name}") for variant in crafted}
        if not others:
            return Check(id="V12", verdict="not-run", message="the network has no other gradient to follow")
        return gradients_agree(name, {name: fooled("own"), **others}, eligible)
    if job.question == "second":
        if not crafted:
            return Check(id="V14", verdict="not-run", message=found[SECOND]["error"])

        def hit(name: str) -> Array:
            predicted = artifact.arrays[name]
            return np.asarray(np.where(targets[:, None] < 0, predicted != labels, predicted == targets[:, None]))[None]

        return implementations_agree(hit("own"), hit(f"variant/{SECOND}"), eligible)
    rungs = [
        Rung(variant.text, fooled(f"variant/{variant.name}"), variant.less, found[variant.name]["same"])
        for variant in crafted
        if variant.name != WHOLE
    ]
    # An attack that shapes its patch may leave part of the image free.
    covers = found.get(WHOLE, {}).get("covers") == 1.0
    check = budget_is_used(fooled("own"), eligible, rungs, fooled(f"variant/{WHOLE}") if covers else None)
    refused = [f"{v.text}: {found[v.name]['error']}" for v in job.variants if "error" in found.get(v.name, {})]
    if refused and check.verdict == "pass":
        return check.model_copy(update={"verdict": "warn", "message": "; ".join(refused)})
    return check


def _crafted(bench: Workbench, job: AuditJob, variant: Variant, images: ImageSet, progress: Progress) -> Patch | None:
    """A variant's patch; None where nothing in the network has another gradient."""
    (source,) = variant.patch.sources
    network = bench.answering(source, "craft", job.key, variant.name)
    for sibling in variant.patch.siblings:
        bench.answering(sibling, "craft", job.key, variant.name)
    with identity_gradients(network) if variant.name == IDENTITY else nullcontext(1) as changed:
        if not changed:
            return None
        attacked = images if variant.patch.attack.kind == "per_image" else None
        return patch_of(bench, variant.patch, attacked, progress)


def _predicted(bench: Workbench, job: AuditJob, variant: Variant, patch: Patch, images: ImageSet) -> Array:
    """Predictions of the target under a variant, (goals, N) int32, at the places of the cell's own patch."""
    model = job.cell.target.checkpoint.model
    given = bench.placement(bench.evaluation_images(model), variant.patch.side)[: len(images)]
    network, batch_size = bench.answering(job.cell.target, "patched"), bench.suite.evaluation.batch_size
    parts = [patch.for_goal(index) for index in range(len(patch.goals))]
    rows = [
        patched_predictions(network, images, part, given if part.placement is None else part.placement, batch_size)
        for part in parts
    ]
    predictions: Array = torch.cat(rows).numpy()
    return predictions


def _first(textures: Array, job: AuditJob, count: int) -> Array:
    """Of the cell's own textures, those of the first images: of every goal, where there is one per image."""
    goals = len(job.cell.patch.goals)
    if job.cell.patch.attack.kind == "universal":
        return textures
    return np.concatenate([part[:count] for part in np.split(textures, goals)])
