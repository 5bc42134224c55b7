"""Where the networks of a run came from, for its manifest."""

from __future__ import annotations

from typing import Any

from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.store.store import Store


def checkpoint_facts(job: TrainJob, store: Store) -> dict[str, Any]:
    """What the manifest says of a checkpoint: its settings, and the hash of its bytes."""
    return {
        "checkpoint": job.key[:16],
        "key": job.key,
        "label": job.label,
        "model": job.model.identity(),
        "defense": job.defense.identity(),
        "seed": job.seed,
        "bits": [str(bits) for bits in job.bits],
        "settings": job.settings.model_dump(mode="json") if job.trains else None,
        "initial": job.initial.key[:16] if job.initial else None,
        "pool": [patch.key[:16] for patch in job.pool],
        "sha256": store.digest(job.kind, job.key),
    }


def network_facts(job: DeployJob) -> dict[str, Any]:
    """What the manifest says of where a network came from."""
    return {
        "label": job.label,
        "network": job.key[:16],
        "checkpoint": job.checkpoint.key[:16],
        "quantizer": job.quantizer.identity(),
        "preprocessor": job.preprocessor.identity() if job.preprocessor else None,
        "partners": [partner.checkpoint.key[:16] for partner in job.partners],
        "bits": str(job.bits),
    }
