"""The work of the analysis jobs; each leaves a table, one mapping per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qpatchbench.evaluation.maps.similarity import measure_similarity
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.craft import patch_from
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import ImageSet, Progress


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
