"""The origin of a run's networks, for its manifest."""

from __future__ import annotations

from typing import Any

from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.store.store import Store


def checkpoint_facts(job: TrainJob, store: Store) -> dict[str, Any]:
    """What the manifest says of a checkpoint: its settings, and the hash of its bytes."""
    return {**training_facts(job), "sha256": store.digest(job.kind, job.key)}


def training_facts(job: TrainJob) -> dict[str, Any]:
    """What the manifest says of how a checkpoint came about."""
    return {
        "checkpoint": job.short_key,
        "key": job.key,
        "label": job.label,
        "model": job.model.identity(),
        "defense": job.defense.identity(),
        "seed": job.seed,
        "bits": [str(bits) for bits in job.bits],
        "settings": job.settings.model_dump(mode="json") if job.trains else None,
        "initial": job.initial.short_key if job.initial else None,
        "pool": [patch.short_key for patch in job.pool],
    }


def network_facts(job: DeployJob) -> dict[str, Any]:
    """What the manifest says of where a network came from."""
    return {
        "label": job.label,
        "network": job.short_key,
        "checkpoint": job.checkpoint.short_key,
        "quantizer": job.quantizer.identity(),
        "preprocessor": job.preprocessor.identity() if job.preprocessor else None,
        "partners": [partner.checkpoint.short_key for partner in job.partners],
        "bits": str(job.bits),
    }
