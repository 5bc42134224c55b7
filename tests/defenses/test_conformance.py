"""What every registered defense must keep, whatever it does."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from qpatchbench.component import create
from qpatchbench.data.base import Splits
from qpatchbench.defenses.base import Batch, Defense, Step
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.switchable import initialize, prepare
from qpatchbench.registry import DEFENSES
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits, Patch, Untargeted
from tests.training.conftest import CLASSES, CPU, same

NAMES = tuple(DEFENSES.entries)
SIDE = 16
BITS = (FLOAT, Bits.parse(8), Bits.parse(4))
# Fields that fit the small images here and keep an attack within a training step short.
FEW = {"size": 4, "steps": 2}


class SmallNet(nn.Module):
    """Two convolutions at 16 x 16 and one at 8 x 8; (B, 3, 16, 16) -> (B, 4)."""

    early_layers = ("stem", "body")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1]."""
        features = torch.relu(self.stem_norm(self.stem(images)))
        features = torch.relu(self.last(torch.relu(self.body_norm(self.body(features)))))
        logits: torch.Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def defense_named(name: str) -> Defense:
    known = DEFENSES.get(name).model_fields
    defense: Defense = create(DEFENSES, {"name": name, **{key: FEW[key] for key in FEW if key in known}})
    return defense


def bits_of(defense: Defense) -> tuple[Bits, ...]:
    """The widths it trains together, of BITS."""
    return defense.bit_groups(BITS)[-1] if defense.quantization_aware else (FLOAT,)


def pool_for(defense: Defense) -> tuple[Patch, ...]:
    if not defense.wants_pool:
        return ()
    textures = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    return (Patch(textures, torch.ones(1, 1, 4, 4), (Untargeted(),)),)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(params=NAMES)
def defense(request: pytest.FixtureRequest) -> Defense:
    return defense_named(request.param)


@pytest.fixture
def network(defense: Defense) -> Switch:
    """As the loop prepares it, in training mode."""
    torch.manual_seed(0)
    module = SmallNet()
    if defense.quantization_aware:
        prepare(module, bits_of(defense), Qat(name="qat", bits=bits_of(defense)))
        initialize(module, images(16))
    module.train()
    return Switch(module, module, defense.quantization_aware)


@pytest.fixture
def batch() -> Batch:
    return Batch(images(12), torch.arange(12) % CLASSES)


def step_for(defense: Defense, index: int = 3) -> Step:
    bits = defense.active_bits(0.9, bits_of(defense))
    return Step(0.9, bits, torch.Generator().manual_seed(1), index, 5, pool_for(defense))


def test_losses_are_named_finite_scalars_with_a_graph(defense: Defense, network: Switch, batch: Batch) -> None:
    losses = defense.loss(network, batch, step_for(defense))
    assert losses
    for name, term in losses.items():
        assert name
        assert term.shape == ()
        assert bool(torch.isfinite(term)), name
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    weights = [p for name, p in network.module.named_parameters() if name.endswith("weight") and p.dim() > 1]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in weights), "a weight learns nothing"


def test_the_step_alone_decides(defense: Defense, network: Switch, batch: Batch) -> None:
    """The same network, batch and step give the same bits; the epoch's generator and the global one are left alone."""
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        network.module.load_state_dict(state)
        losses = defense.loss(network, batch, step_for(defense))
        found.append({name: float(term.detach()) for name, term in losses.items()})
        torch.manual_seed(3)
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_no_global_draws(defense: Defense, network: Switch, batch: Batch) -> None:
    before = torch.get_rng_state()
    defense.loss(network, batch, step_for(defense))
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_and_parameters_are_untouched(defense: Defense, network: Switch, batch: Batch) -> None:
    pixels, labels = batch.images.clone(), batch.labels.clone()
    parameters = {name: value.detach().clone() for name, value in network.module.named_parameters()}
    defense.loss(network, batch, step_for(defense))
    assert torch.equal(batch.images, pixels)
    assert torch.equal(batch.labels, labels)
    assert not batch.images.requires_grad
    for name, value in network.module.named_parameters():
        assert torch.equal(value.detach(), parameters[name]), name
        assert value.grad is None, f"{name} has a gradient before the loop asked for one"


def test_the_network_is_left_in_training_mode(defense: Defense, network: Switch, batch: Batch) -> None:
    defense.loss(network, batch, step_for(defense))
    assert all(part.training for part in network.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.module.modules())


def test_bit_groups_are_a_partition(defense: Defense) -> None:
    if defense.quantization_aware:
        groups = defense.bit_groups(BITS)
        assert sorted(bits for group in groups for bits in group) == sorted(BITS)


def test_active_bits_grow_and_end_with_all(defense: Defense) -> None:
    bits = bits_of(defense)
    seen: set[Bits] = set()
    for index in range(101):
        active = defense.active_bits(index / 100, bits)
        assert active
        assert seen <= set(active) <= set(bits)
        seen = set(active)
    assert seen == set(bits)


def test_a_cost_is_estimated(defense: Defense) -> None:
    assert defense.passes(bits_of(defense)) >= 3.0


def test_partners_can_be_combined(defense: Defense) -> None:
    partners = defense.partners(Bits.parse(4))
    expectation: Any = contextlib.nullcontext() if partners else pytest.raises(NotImplementedError, match=defense.name)
    with expectation:
        members = [nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES)) for _ in range(1 + len(partners))]
        assert defense.combined(members)(images(5)).shape == (5, CLASSES)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    from qpatchbench.data.base import Decoding
    from qpatchbench.data.fake import Fake

    source = Fake(
        classes=CLASSES, image_size=SIDE, train_pool=176, test_pool=32, calibration_images=16, craft_images=64
    )
    folder = tmp_path_factory.mktemp("cache")
    return source.load(folder, folder, Decoding(), 32)


def test_a_killed_training_goes_on_to_the_same_bits(defense: Defense, splits: Splits) -> None:
    """From the middle of the second of two epochs, where curricula have widths that joined."""
    bits = bits_of(defense)
    quantizer = Qat(name="qat", bits=bits) if defense.quantization_aware else None
    settings = TrainingSettings(epochs=2, images_per_epoch=48, batch_size=24, learning_rate=0.02)
    task = TrainingTask(SmallNet, defense, quantizer, bits, settings, None, 0, pool_for(defense))

    def run(snapshot: Snapshot | None) -> tuple[dict[str, torch.Tensor], list[Snapshot]]:
        saved: list[Snapshot] = []
        state = train(
            task, splits.train, splits.calibration, device=CPU, snapshot=snapshot, save=saved.append, save_seconds=-1.0
        )
        return state, saved

    whole, saved = run(None)
    middle = next(snapshot for snapshot in saved if snapshot.epochs == 1 and snapshot.running is not None)
    assert same(run(middle)[0], whole)
    assert all(bool(torch.isfinite(value.float()).all()) for value in whole.values())


def test_mixed_precision(defense: Defense, splits: Splits) -> None:
    bits = bits_of(defense)
    quantizer = Qat(name="qat", bits=bits) if defense.quantization_aware else None
    settings = TrainingSettings(
        epochs=1, images_per_epoch=24, batch_size=24, learning_rate=0.02, precision="bf16-mixed"
    )
    task = TrainingTask(SmallNet, defense, quantizer, bits, settings, None, 0, pool_for(defense))
    state = train(task, splits.train, splits.calibration, device=CPU, snapshot=None, save=lambda saved: None)
    assert all(bool(torch.isfinite(value.float()).all()) for value in state.values())
