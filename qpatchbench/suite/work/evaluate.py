"""The work of an `EvaluateJob`: one patch measured on one target network."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from qpatchbench.evaluation.checks import artifacts
from qpatchbench.evaluation.checks.deployment_agreement import Answers, deployment_agrees, differs
from qpatchbench.evaluation.deployment.disturbance import disturbed
from qpatchbench.evaluation.measure import (
    clean_predictions,
    count_outcomes,
    count_queries,
    fooled_images,
    patched_predictions,
)
from qpatchbench.ops.patches.placing import moved
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.suite.file.consistency import BARE
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import ENSEMBLE
from qpatchbench.suite.runtimes.second_network import Runtime, runtime_of
from qpatchbench.suite.store.plugin_facts import plugins_text
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.craft import patch_from
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import ImageSet, Network, Patch, Placement, distinct


def evaluated(bench: Workbench, job: EvaluateJob) -> Artifact:
    """Predictions under every goal's patch, and the record that counts them."""
    images = bench.evaluation_images(job.target.checkpoint.model)
    stored = bench.store.read(job.patch.kind, job.patch.key)
    target = bench.store.read(job.target.kind, job.target.key)
    patch = patch_from(stored)
    predictions, placements = predicted(bench, job, patch, images)
    labels, clean = images.labels.cpu().numpy(), target.arrays["predictions"]
    found = [Check(**check) for artifact in (stored, target) for check in artifact.facts["checks"]]
    if bench.suite.evaluation.checks != "off":
        # The job got this far, so the attack did not crash.
        found.append(Check(id="V10", verdict="pass"))
    # The network may be deployed again elsewhere, where an image on the edge falls to the other side: a cell keeps what
    # its own counts rest on.
    arrays = {"predictions": predictions, "clean": clean}
    arrays |= {
        axis: np.stack([getattr(placement, axis).numpy().astype(np.int16) for placement in placements])
        for axis in ("rows", "columns")
    }
    certified = covered(job, target, placements)
    if certified is not None and bench.suite.evaluation.checks != "off":
        found.append(artifacts.certificates_hold(certified, labels, clean, predictions))
    spent: dict[str, object] = {f"{way}_passes": count for way, count in stored.facts.get("passes", {}).items()}
    attacked = None if patch.attacked is None else patch.attacked.numpy().reshape(predictions.shape)
    if attacked is not None:
        arrays["attacked"] = attacked.astype(np.uint8)
    second = answered_twice(bench, job, target, patch, images, predictions)
    if second.predictions is not None:
        arrays["runtime"] = second.predictions
    found += [second.check] if second.check is not None else []
    if patch.queries is not None:
        fooled = fooled_images(labels, clean, predictions, patch.goals, attacked)
        successes = patch.queries.numpy().reshape(fooled.shape)[fooled]
        spent["queries"] = count_queries(labels, clean, predictions, patch.goals, patch.queries, attacked)
        spent["queries_median"] = float(np.median(successes)) if len(successes) else None
        arrays["queries"] = patch.queries.numpy().reshape(fooled.shape)
    dataset = bench.dataset_title(job.target.checkpoint.model)
    record = record_of(job, bench.suite, dataset).model_copy(
        update={
            "n_images": len(images),
            "n_clean_correct": int((clean == labels).sum()),
            "counts": count_outcomes(labels, clean, predictions, job.patch.goals, attacked),
            "n_certified": None if certified is None else int(certified.sum()),
            "checks": artifacts.merged(found),
            **target.facts.get("size", {}),
            "places": "given" if patch.placement is None else "chosen",
            **spent,
        }
    )
    return Artifact(arrays, {"record": record.model_dump(mode="json")})


class SecondAnswer(NamedTuple):
    """Predictions of the runtime that a suite asks for, (goals, N) int32, and V16; None where it asks for none."""

    predictions: np.ndarray[Any, Any] | None
    check: Check | None


def answered_twice(
    bench: Workbench,
    job: EvaluateJob,
    target: Artifact,
    patch: Patch,
    images: ImageSet,
    predictions: np.ndarray[Any, Any],
) -> SecondAnswer:
    """The same patch on the target in its runtime, beside the predictions of the simulation."""
    facts = target.facts.get("runtime", {})
    runtime = runtime_of(bench, job.target) if "bytes" in facts else Runtime(None, facts.get("reason", ""))
    if runtime.network is None:
        told = Check(id="V16", verdict="not-run", message=runtime.reason) if runtime.reason else None
        return SecondAnswer(None, told)
    second, _ = predicted(bench, job, patch, images, runtime.network)
    simulated, measured = Answers(target.arrays["predictions"], predictions), Answers(target.arrays["runtime"], second)
    shaken = None
    if differs(simulated, measured):
        network = disturbed(bench.answering(job.target, "patched"))
        clean = clean_predictions(network, images, bench.suite.evaluation.batch_size).numpy()
        shaken = Answers(clean, predicted(bench, job, patch, images, network)[0])
    attacked = None if patch.attacked is None else patch.attacked.numpy().reshape(predictions.shape)
    labels, layers = images.labels.cpu().numpy(), facts["beyond_rounding"]
    return SecondAnswer(second, deployment_agrees(labels, simulated, measured, patch.goals, attacked, layers, shaken))


def predicted(
    bench: Workbench, job: EvaluateJob, patch: Patch, images: ImageSet, runtime: Network | None = None
) -> tuple[np.ndarray[Any, Any], list[Placement]]:
    """Predictions of the target under every goal's patch, (goals, N) int32, and where each of the patches lay.

    Those of `runtime` where it is given, which stands for the target.
    """
    placements = [places(bench, job, patch.for_goal(index), images) for index in range(len(patch.goals))]
    network = bench.answering(job.target, "patched") if runtime is None else runtime
    batch_size = bench.suite.evaluation.batch_size
    rows = [
        patched_predictions(network, images, patch.for_goal(index), placement, batch_size)
        for index, placement in enumerate(placements)
    ]
    return torch.cat(rows).numpy(), placements


def covered(job: EvaluateJob, target: Artifact, placements: list[Placement]) -> np.ndarray[Any, Any] | None:
    """Images certified against the job's patch, (N,) bool; None where no certificate speaks of such a patch.

    Certificates are about upright squares inside the image, up to a side.
    """
    preprocessor, side = job.target.preprocessor, job.target.facts["side"]
    limit = preprocessor.certified_side(side) if preprocessor else None
    upright = all(bool((own.angles == 0).all() and (own.scales == 1).all()) for own in placements)
    if "certified" not in target.arrays or limit is None or job.patch.side > limit or not upright:
        return None
    return target.arrays["certified"]


def places(bench: Workbench, job: EvaluateJob, patch: Patch, images: ImageSet) -> Placement:
    """Where one goal's patch lies on each image: where its attack put it, else the suite's places; then moved."""
    placement = patch.placement if patch.placement is not None else bench.placement(images, job.patch.side)
    return moved(placement, job.transformation, (patch.height, patch.width), (images.side, images.side))


def record_of(job: EvaluateJob, suite: Suite, dataset: str) -> CellRecord:
    """The record of a cell before it is measured."""
    sources, target, attack = job.patch.sources, job.target, job.patch.attack
    return CellRecord(
        cell=job.short_key,
        control=job.control,
        partial=suite.limit is not None,
        dataset=dataset,
        model=target.checkpoint.model.title,
        defense=target.checkpoint.defense.title,
        preprocessor=target.preprocessor_title,
        quantization=target.quantizer.mode,
        target_bits=str(target.bits),
        seed=target.checkpoint.seed,
        attack=attack.title,
        patch_kind=attack.kind,
        access=attack.access,
        goal_kind="untargeted" if attack.targets == "untargeted" else "targeted",
        patch_height=job.patch.side,
        patch_width=job.patch.side,
        transformation=str(job.transformation),
        image_height=suite.dataset.side,
        image_width=suite.dataset.side,
        source_model=_names([source.checkpoint.model.title for source in sources]),
        source_defense=_names([source.checkpoint.defense.title for source in sources]),
        source_preprocessor=_names([source.preprocessor_title for source in sources]) or BARE,
        source_quantization=_names([source.quantizer.mode for source in sources]),
        source_bits=ENSEMBLE if len(sources) > 1 else _names([str(source.bits) for source in sources]),
        seen=job.seen,
        lineage=job.lineage,
        patch=job.patch.short_key,
        network=target.short_key,
        plugins=plugins_text((job, suite.dataset)),
    )


def _names(names: list[str]) -> str:
    return "+".join(distinct(names))
