"""The work of the analysis jobs; each leaves a table, one mapping per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from qpatchbench.evaluation.similarity import measure_similarity
from qpatchbench.ops.pasting import paste, to_float
from qpatchbench.suite.analyses import CostJob, SimilarityJob
from qpatchbench.suite.bench import Workbench
from qpatchbench.suite.crafting import patch_from
from qpatchbench.suite.jobs import CraftJob, DeployJob
from qpatchbench.suite.learning import task_of
from qpatchbench.suite.store import Artifact
from qpatchbench.types import ImageSet, Progress


def costs(bench: Workbench, job: CostJob, progress: Progress) -> Artifact:
    """Time and memory of a step of every training."""
    from qpatchbench.training.cost import measure_costs

    splits = bench.splits(job.reference.model)
    tasks = {training.key: task_of(bench, training) for training in (*job.trainings, *job.narrowed)}
    found = measure_costs(
        tasks,
        job.reference.key,
        splits.train,
        splits.calibration,
        device=bench.device,
    )
    shared = {"model": job.reference.model.title, "seed": job.reference.seed, "reference": job.reference.defense.title}
    rows = [
        {
            **shared,
            "defense": training.defense.title,
            "bits": " ".join(map(str, training.bits)),
            "widths": len(training.bits),
            "all_widths": training in job.trainings,
            "batch_size": training.settings.batch_size,
            **asdict(found[training.key]),
        }
        for training in (*job.trainings, *job.narrowed)
    ]
    progress(1.0, {})
    return Artifact({}, {"rows": rows})


def similarities(bench: Workbench, job: SimilarityJob, progress: Progress) -> Artifact:
    """Similarity of features and input gradients for every pair of bit-widths."""
    checkpoint = job.networks[0].checkpoint
    images = bench.evaluation_images(checkpoint.model)[: job.images]
    patched = patched_images(bench, job.patch, images) if job.patch is not None else None
    found = measure_similarity(
        {network.bits: bench.network(network) for network in job.networks},
        images,
        patched,
        batch_size=min(bench.suite.evaluation.batch_size, 64),
    )
    rows = [{**titles(job.networks), **row.model_dump(mode="json")} for row in found]
    progress(1.0, {})
    return Artifact({}, {"rows": rows})


def patched_images(bench: Workbench, patch: CraftJob, images: ImageSet) -> torch.Tensor:
    """The images under the first goal's patch, where all cells of the suite have it; (N, 3, H, W) float32."""
    first = patch_from(bench.store.read(patch.kind, patch.key)).for_goal(0).to(bench.device)
    placement = bench.placement(images, patch.side).to(bench.device)
    return paste(to_float(images.pixels), first.textures, first.masks, placement)


def titles(networks: Sequence[DeployJob]) -> dict[str, Any]:
    """What results call a backbone, of which one network at least is quantized."""
    checkpoint = networks[0].checkpoint
    return {
        "model": checkpoint.model.title,
        "defense": checkpoint.defense.title,
        "quantization": next(network.quantizer.mode for network in networks if not network.bits.is_float),
        "seed": checkpoint.seed,
    }
