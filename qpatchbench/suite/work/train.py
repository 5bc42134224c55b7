"""The work of a `TrainJob`: one checkpoint, resumable after every epoch."""

from __future__ import annotations

from qpatchbench.errors import ArtifactError, TrainingError, WeightsError
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.plan.fingerprints import weights_key
from qpatchbench.suite.store.store import Artifact, key_of
from qpatchbench.suite.work.craft import patch_from
from qpatchbench.suite.work.workbench import Workbench, arrays, tensors
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import Progress


def trained(bench: Workbench, job: TrainJob, progress: Progress) -> Artifact:
    """The checkpoint, and the log of its training."""
    splits = bench.splits(job.model)
    bench.require_quantizable(job.model)
    if not job.trains:
        module = bench.build(job.model)
        found = weights_key(job.model, bench.suite.dataset.num_classes, fetch=True)
        if found != job.facts["weights"]:
            raise WeightsError(
                f"{job.title}: its weights are others than when the run began: expected {job.facts['weights']}, found "
                f"{found}. Run the same command again"
            )
        return Artifact(arrays(module.state_dict()), {"log": []})
    if not len(splits.train):
        raise TrainingError(
            f"{job.title}: {bench.suite.dataset.title} has no training images; give the model weights, or the "
            "dataset train_images"
        )
    earlier = _latest_snapshot(bench, job)
    log = list(earlier.log) if earlier else []

    def save(snapshot: Snapshot) -> None:
        log.extend(snapshot.log)
        tensors, facts = snapshot.stored()
        key = _snapshot_key(job, snapshot.epochs, snapshot.running is not None)
        bench.store.write("snapshot", key, Artifact(arrays(tensors), {"log": log, **facts}))
        if snapshot.running is None:
            for running in (False, True):
                bench.store.remove("snapshot", _snapshot_key(job, snapshot.epochs - 1, running))

    try:
        state = train(
            task_of(bench, job),
            splits.train,
            splits.calibration,
            device=bench.device,
            snapshot=earlier,
            save=save,
            progress=progress,
        )
    except TrainingError as error:
        good = _latest_snapshot(bench, job)
        if good is None:
            raise
        kept = bench.store.path("snapshot", _snapshot_key(job, good.epochs, good.running is not None))
        raise TrainingError(f"{error}. The weights after epoch {good.epochs} are kept in {kept}") from error
    return Artifact(arrays(state), {"log": log})


def forget_snapshots(bench: Workbench, job: TrainJob) -> None:
    """Remove what an unfinished training left: it must not be gone on with."""
    for epochs in range(job.settings.epochs + 1):
        for running in (False, True):
            bench.store.remove("snapshot", _snapshot_key(job, epochs, running))


def task_of(bench: Workbench, job: TrainJob) -> TrainingTask:
    """What the job trains; what it starts from is in the store."""
    return TrainingTask(
        build=lambda: bench.build(job.model),
        defense=job.defense,
        quantizer=job.quantizer,
        bits=job.bits,
        settings=job.settings,
        initial=tensors(bench.store.read(job.initial.kind, job.initial.key)) if job.initial else None,
        seed=job.seed,
        pool=tuple(patch_from(bench.store.read(patch.kind, patch.key)) for patch in job.pool),
    )


def _latest_snapshot(bench: Workbench, job: TrainJob) -> Snapshot | None:
    for epochs in range(job.settings.epochs, -1, -1):
        for running in (True, False):
            key = _snapshot_key(job, epochs, running)
            if not bench.store.has("snapshot", key):
                continue
            try:
                artifact = bench.store.read("snapshot", key)
            except ArtifactError:
                bench.store.remove("snapshot", key)  # damaged: an earlier one, or the start, will do
                continue
            return Snapshot.read(tensors(artifact), artifact.facts, epochs)
    return None


def _snapshot_key(job: TrainJob, epochs: int, running: bool) -> str:
    """A snapshot within an epoch has a place of its own: writing it cannot damage the one before the epoch."""
    return key_of({"snapshot": job.key, "epochs": epochs, **({"running": True} if running else {})})
