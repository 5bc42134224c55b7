"""Times a training step and an inference of several defenses, in turn on one machine."""

from __future__ import annotations

from dataclasses import asdict

from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.train import task_of
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import Progress


def costs(bench: Workbench, job: CostJob, progress: Progress) -> Artifact:
    """Time and memory of a step of every training, and the time of an inference of what it deploys."""
    from qpatchbench.training.cost import measure_costs
    from qpatchbench.training.inference_time import measure_inference

    splits = bench.splits(job.reference.model)
    tasks = {training.key: task_of(bench, training) for training in (*job.trainings, *job.narrowed)}
    images = splits.train, splits.calibration
    found = measure_costs(tasks, job.reference.key, *images, device=bench.device)
    whole = {training.key: tasks[training.key] for training in job.trainings}
    answers = measure_inference(whole, job.reference.key, *images, device=bench.device)
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
            **(asdict(answers[training.key]) if training.key in answers else {}),
        }
        for training in (*job.trainings, *job.narrowed)
    ]
    progress(1.0, {})
    return Artifact({}, {"rows": rows})
