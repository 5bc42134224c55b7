"""Long epochs: resumption from the middle of one, to the bit; and epochs that use some of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qpatchbench.data.base import Splits
from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.defenses.none import NoDefense
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.quantizers.qat import Qat
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import FLOAT, Losses
from tests.training.conftest import CPU, Run, TinyNet, same

BATCHES = 4  # 96 training images in batches of 24


class Noisy(Defense):
    """Draws from the epoch's generator, from the step's and, by dropout, from the global one."""

    quantization_aware = False

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy of images with noise from both generators."""
        shared = torch.rand(batch.images.shape, generator=step.generator)
        own = torch.rand(batch.images.shape, generator=step.draws("noise"))
        logits = network.at(FLOAT)(batch.images + 0.1 * shared + 0.1 * own)
        return {"clean": torch.nn.functional.cross_entropy(logits, batch.labels)}


def trained(
    splits: Splits, settings: TrainingSettings, defense: Defense, quantizer: Qat | None, snapshot: Snapshot | None
) -> tuple[dict[str, torch.Tensor], list[Snapshot]]:
    """A training that is saved after every step."""
    saved: list[Snapshot] = []
    bits = quantizer.bits if quantizer else (FLOAT,)
    task = TrainingTask(TinyNet, defense, quantizer, bits, settings, None, 0)
    state = train(
        task, splits.train, splits.calibration, device=CPU, snapshot=snapshot, save=saved.append, save_seconds=-1.0
    )
    return state, saved


@pytest.mark.parametrize("quantized", [False, True])
def test_resuming_from_any_step_gives_the_same_bits(
    splits: Splits, settings: TrainingSettings, quantizer: Qat, quantized: bool
) -> None:
    short = settings.model_copy(update={"epochs": 2})
    defense: Defense = QuantizationAwareTraining(name="qat") if quantized else Noisy(name="noisy")
    chosen = quantizer if quantized else None
    whole, saved = trained(splits, short, defense, chosen, None)
    places = [(snapshot.epochs, snapshot.running.steps if snapshot.running else 0) for snapshot in saved]
    assert places == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    for snapshot in saved:
        tensors, facts = snapshot.stored()
        read = Snapshot.read(tensors, {**facts, "log": [*snapshot.log]}, snapshot.epochs)
        rest, later = trained(splits, short, defense, chosen, read)
        assert same(rest, whole), f"resumed at {snapshot.epochs} epochs, {snapshot.running}: other weights came out"
        if later:
            assert later[-1].log[0]["losses"] == saved[-1].log[0]["losses"], "the epoch's mean forgot the first part"


def test_the_state_of_generators_matters(splits: Splits, settings: TrainingSettings) -> None:
    """The test above would be void if what a snapshot within an epoch holds did not decide anything."""
    short = settings.model_copy(update={"epochs": 1})
    whole, saved = trained(splits, short, Noisy(name="noisy"), None, None)
    forgetful = Snapshot(saved[1].tensors, 0)
    assert not same(trained(splits, short, Noisy(name="noisy"), None, forgetful)[0], whole)


def test_nothing_is_saved_within_short_epochs(run: Callable[..., Run]) -> None:
    snapshots = run().snapshots
    assert snapshots, "nothing was saved at all"
    assert all(snapshot.running is None for snapshot in snapshots.values())


@pytest.mark.parametrize(("wanted", "steps"), [(None, 4), (24, 1), (50, 2), (1000, 4), (5, 1)])
def test_an_epoch_may_use_some_of_the_images(
    run: Callable[..., Run], settings: TrainingSettings, wanted: int | None, steps: int
) -> None:
    shorter = settings.model_copy(update={"images_per_epoch": wanted, "epochs": 2})
    assert len(run(settings=shorter).told) == 2 * steps


def test_other_images_in_every_epoch(run: Callable[..., Run], settings: TrainingSettings) -> None:
    class Watching(NoDefense):
        def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
            seen.append(batch.labels.tolist())
            return super().loss(network, batch, step)

    seen: list[list[int]] = []
    plain: dict[str, Any] = {"images_per_epoch": 24, "epochs": 4, "augmentation": "none"}
    run(settings=settings.model_copy(update=plain), defense=Watching(name="none"))
    assert len({tuple(labels) for labels in seen}) == 4


def test_a_width_that_joins_is_calibrated_and_no_weight_changes(
    splits: Splits, settings: TrainingSettings, quantizer: Qat
) -> None:
    """The 4-bit scales and statistics are set when the width joins, from the weights as they are then."""

    class Joining(QuantizationAwareTraining):
        calibrates = True

        def active_bits(self, epoch_fraction: float, bits: tuple[Any, ...]) -> tuple[Any, ...]:
            return bits[:-1] if epoch_fraction < 0.5 else bits

    class Late(Joining):
        calibrates = False

    frozen = settings.model_copy(update={"epochs": 2, "learning_rate": 1e-30, "weight_decay": 0.0})
    saved = {kind: trained(splits, frozen, kind(name="qat"), quantizer, None)[1] for kind in (Joining, Late)}
    before, after = ({kind: _at(snapshots, 1, steps).tensors for kind, snapshots in saved.items()} for steps in (0, 1))
    assert same(before[Joining], before[Late]), "nothing has joined yet"
    state = [name.removeprefix("module/") for name in before[Joining] if name.startswith("module/")]
    of_width = [name for name in state if ".scale_4" in name or (".at_bits.4." in name and "running" in name)]
    weights = [name for name in state if name.endswith((".weight", ".bias"))]
    assert weights
    for name in weights:
        torch.testing.assert_close(
            before[Joining][f"module/{name}"], after[Joining][f"module/{name}"], rtol=0, atol=1e-20, msg=name
        )
    changed = [
        name for name in of_width if not torch.equal(after[Joining][f"module/{name}"], after[Late][f"module/{name}"])
    ]
    assert any("activation_quantizer.scale_4" in name for name in changed)
    assert any("running_mean" in name for name in changed)
    others = [name for name in state if ".scale_8" in name or ".at_bits.8." in name or ".at_bits.32." in name]
    for name in others:
        assert torch.equal(after[Joining][f"module/{name}"], after[Late][f"module/{name}"]), name


def _at(snapshots: list[Snapshot], epochs: int, steps: int) -> Snapshot:
    return next(s for s in snapshots if s.epochs == epochs and (s.running.steps if s.running else 0) == steps)
