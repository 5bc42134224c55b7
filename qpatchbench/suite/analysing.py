"""The work of the analysis jobs; each leaves a table, one mapping per row."""

from __future__ import annotations

from dataclasses import asdict

from qpatchbench.evaluation.similarity import measure_similarity
from qpatchbench.ops.pasting import paste, to_float
from qpatchbench.suite.analyses import CostJob, SimilarityJob
from qpatchbench.suite.bench import Workbench
from qpatchbench.suite.crafting import patch_from
from qpatchbench.suite.learning import task_of
from qpatchbench.suite.store import Artifact
from qpatchbench.types import Progress


def costs(bench: Workbench, job: CostJob, progress: Progress) -> Artifact:
    """Time and memory of a step of every training."""
    from qpatchbench.training.cost import measure_costs

    splits = bench.splits(job.reference.model)
    found = measure_costs(
        {training.defense.title: task_of(bench, training) for training in job.trainings},
        job.reference.defense.title,
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
            "batch_size": training.settings.batch_size,
            **asdict(found[training.defense.title]),
        }
        for training in job.trainings
    ]
    progress(1.0, {})
    return Artifact({}, {"rows": rows})


def similarities(bench: Workbench, job: SimilarityJob, progress: Progress) -> Artifact:
    """Similarity of features and input gradients for every pair of bit-widths."""
    checkpoint = job.networks[0].checkpoint
    images = bench.evaluation_images(checkpoint.model)[: job.images]
    patched = None
    if job.patch is not None:
        first = patch_from(bench.store.read(job.patch.kind, job.patch.key)).for_goal(0).to(bench.device)
        placement = bench.placement(images, job.patch.side).to(bench.device)
        patched = paste(to_float(images.pixels), first.textures, first.masks, placement)
    found = measure_similarity(
        {network.bits: bench.network(network) for network in job.networks},
        images,
        patched,
        batch_size=min(bench.suite.evaluation.batch_size, 64),
    )
    quantization = next(network.quantizer.mode for network in job.networks if not network.bits.is_float)
    shared = {
        "model": checkpoint.model.title,
        "defense": checkpoint.defense.title,
        "quantization": quantization,
        "seed": checkpoint.seed,
    }
    rows = [{**shared, **row.model_dump(mode="json")} for row in found]
    progress(1.0, {})
    return Artifact({}, {"rows": rows})
