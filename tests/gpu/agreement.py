"""Every kind of component on the GPU and on the CPU, and a training that is interrupted."""

from __future__ import annotations

from pathlib import Path

import torch

from qpatchbench.registry import DEFENSES
from qpatchbench.testing import trial
from qpatchbench.testing.fixtures import trainings
from qpatchbench.testing.fixtures.networks_and_images import images_of
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.snapshot import Snapshot
from tests.devices.effects import KINDS


def components(device: torch.device, data_dir: Path) -> bool:
    """Each within the tolerances of tests/devices; says which is not, and how far."""
    failed = 0
    for kind, (alike, names) in KINDS.items():
        wrong, absent = [], 0
        for name in names:
            try:
                alike(name, device)
            except Exception as error:
                if "needs the library" in str(error) or "expected the library" in str(error):
                    absent += 1
                    print(f"  {kind} {name}: not tried, its library is not here")
                    continue
                wrong.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        print(
            f"  {kind}: {len(names) - len(wrong) - absent} of {len(names)} agree with the CPU",
            *wrong,
            sep="\n    ",
            flush=True,
        )
        failed += len(wrong)
    return not failed


def resume(device: torch.device, data_dir: Path) -> bool:
    """How far a training that goes on from a snapshot ends from one that was never stopped; 0 is bit for bit."""
    for name in ("qat", "pbat", "triqdef"):
        defense = trial(DEFENSES.get(name), name)
        task = trainings.task_for(defense, trainings.groups_of(defense)[0], 0)

        def ended(snapshot: Snapshot | None, saved: list[Snapshot], task: TrainingTask = task) -> torch.Tensor:
            state = train(
                task, trainings.training_images(0), images_of(0, 16, role="calibration"), device=device,
                snapshot=snapshot, save=saved.append, save_seconds=-1.0,
            )  # fmt: skip
            return torch.cat([value.flatten().float() for value in state.values()])

        snapshots: list[Snapshot] = []
        whole, again = ended(None, snapshots), ended(None, [])
        resumed = ended(snapshots[1], [])
        gaps = [float((other - whole).norm() / whole.norm()) for other in (again, resumed)]
        print(f"  {name}: trained twice: {gaps[0]:.1e} apart; resumed: {gaps[1]:.1e} apart")
        if max(gaps) > 0.05:
            return False
    return True
