"""The work of a `TrainJob`: one checkpoint, resumable after every epoch."""

from __future__ import annotations

from qpatchbench.errors import ArtifactError, TrainingError
from qpatchbench.suite.bench import Workbench, arrays, tensors
from qpatchbench.suite.jobs import TrainJob
from qpatchbench.suite.store import Artifact, key_of
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import Progress


def trained(bench: Workbench, job: TrainJob, progress: Progress) -> Artifact:
    """The checkpoint, and the log of its training."""
    splits = bench.splits(job.model)
    if not job.trains:
        module = bench.build(job.model)
        return Artifact(arrays(module.state_dict()), {"log": []})
    if not len(splits.train):
        raise TrainingError(
            f"{job.label}: {bench.suite.dataset.title} has no training images; give the model weights instead"
        )
    task = TrainingTask(
        build=lambda: bench.build(job.model),
        defense=job.defense,
        quantizer=job.quantizer,
        bits=job.bits,
        settings=job.settings,
        initial=tensors(bench.store.read(job.initial.kind, job.initial.key)) if job.initial else None,
        seed=job.seed,
    )
    earlier = _latest_snapshot(bench, job)
    log = list(earlier.log) if earlier else []

    def save(snapshot: Snapshot) -> None:
        log.extend(snapshot.log)
        bench.store.write(
            "snapshot", _snapshot_key(job, snapshot.epochs), Artifact(arrays(snapshot.tensors), {"log": log})
        )
        bench.store.remove("snapshot", _snapshot_key(job, snapshot.epochs - 1))

    state = train(
        task,
        splits.train,
        splits.calibration,
        device=bench.device,
        snapshot=earlier,
        save=save,
        progress=progress,
    )
    return Artifact(arrays(state), {"log": log})


def _latest_snapshot(bench: Workbench, job: TrainJob) -> Snapshot | None:
    for epochs in range(job.settings.epochs, 0, -1):
        key = _snapshot_key(job, epochs)
        if not bench.store.has("snapshot", key):
            continue
        try:
            artifact = bench.store.read("snapshot", key)
        except ArtifactError:
            bench.store.remove("snapshot", key)  # damaged: an earlier one, or the start, will do
            continue
        return Snapshot(tensors(artifact), epochs, tuple(artifact.facts["log"]))
    return None


def _snapshot_key(job: TrainJob, epochs: int) -> str:
    return key_of({"snapshot": job.key, "epochs": epochs})
