"""The training loop: resumption to the bit, seeds, schedule, clipping, errors, defenses."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr
from torch.nn import functional

from qpatchbench.data.base import Splits
from qpatchbench.defenses.base import Batch, Defense, Observed, Step, SwitchableNetwork
from qpatchbench.defenses.none import NoDefense
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import QPatchBenchError, TrainingError
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import float_part
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Losses
from tests.training.conftest import SIDE, Run, TinyNet, same

Train = Callable[..., Run]
BATCHES = 4  # 96 training images in batches of 24


@pytest.fixture(params=["float", "quantized", "nesterov and clipping"])
def variant(request: pytest.FixtureRequest, settings: TrainingSettings, quantizer: Qat) -> dict[str, Any]:
    if request.param == "quantized":
        return {"defense": QuantizationAwareTraining(name="qat"), "quantizer": quantizer, "bits": quantizer.bits}
    if request.param == "float":
        return {}
    return {"settings": settings.model_copy(update={"nesterov": True, "gradient_clip": 0.5, "schedule": "cosine"})}


def test_resuming_from_any_epoch_gives_the_same_bits(run: Train, variant: dict[str, Any]) -> None:
    whole = run(**variant)
    assert sorted(whole.snapshots) == [1, 2, 3, 4]
    for epochs, snapshot in whole.snapshots.items():
        rest = run(snapshot=snapshot, **variant)
        assert same(rest.state, whole.state), f"resumed after epoch {epochs}, other weights came out"
        assert sorted(rest.snapshots) == list(range(epochs + 1, 5))
        for later, saved in rest.snapshots.items():
            assert same(saved.tensors, whole.snapshots[later].tensors)
            assert saved.log[0]["losses"] == whole.snapshots[later].log[0]["losses"]


def test_resuming_needs_momentum(run: Train) -> None:
    """The test above would be void if momentum, which a snapshot must hold, did not matter."""
    whole = run()
    snapshot = whole.snapshots[2]
    weights = {name: value for name, value in snapshot.tensors.items() if name.startswith("module/")}
    assert len(weights) < len(snapshot.tensors)
    forgetful = run(snapshot=type(snapshot)(weights, 2))
    assert not same(forgetful.state, whole.state)


def test_snapshots_hold_learned_scales_and_their_momentum(run: Train, quantizer: Qat) -> None:
    whole = run(defense=QuantizationAwareTraining(name="qat"), quantizer=quantizer, bits=quantizer.bits)
    first, last = whole.snapshots[1].tensors, whole.snapshots[4].tensors
    scales = [name for name in first if ".scale_4" in name]
    assert len(scales) == 5, "three weight quantizers, and two inputs; that of the first layer is the image"
    assert all(not torch.equal(first[name], last[name]) for name in scales), "a scale is not learned"
    parameters = [name for name in first if name.startswith("momentum/")]
    assert len(parameters) == sum(1 for name in first if name.startswith("module/") and _is_parameter(name))


def _is_parameter(name: str) -> bool:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "_extra_state", "scale_8")
    return not name.endswith(buffers)


def test_a_seed_decides_everything(run: Train, variant: dict[str, Any]) -> None:
    first = run(**variant)
    assert same(first.state, run(**variant).state)
    other = run(**variant, seed=1)
    weights = [name for name in first.state if name.endswith(".weight")]
    assert all(not torch.equal(first.state[name], other.state[name]) for name in weights)


def test_global_generators_are_left_alone(run: Train) -> None:
    torch.manual_seed(7)
    before, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    first = run()
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(np.random.get_state(legacy=False)) == repr(legacy)  # noqa: NPY002
    torch.manual_seed(8)
    assert same(run().state, first.state), "the global generator decides something"


def test_the_generator_is_restored_after_an_error(run: Train) -> None:
    before = torch.get_rng_state()
    with pytest.raises(TrainingError):
        run(defense=Broken(name="broken", at=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, {0.0: 0.1, 0.5: 0.1, 1.0: 0.1}),
        ({"schedule": "step"}, {0.0: 0.1, 0.4999: 0.1, 0.5: 0.01, 0.7499: 0.01, 0.75: 0.001, 0.9999: 0.001}),
        ({"schedule": "cosine"}, {0.0: 0.1, 1 / 3: 0.075, 0.5: 0.05, 2 / 3: 0.025, 1.0: 0.0}),
        ({"schedule": "constant", "warmup": 0.2}, {0.0: 0.001, 0.05: 0.025, 0.1: 0.05, 0.1999: 0.09995, 0.2: 0.1}),
        ({"schedule": "cosine", "warmup": 0.2}, {0.1: 0.05, 0.2: 0.1, 0.6: 0.05, 1.0: 0.0}),
        ({"schedule": "step", "warmup": 0.1}, {0.05: 0.05, 0.1: 0.1, 0.5: 0.01, 0.75: 0.001}),
    ],
)
def test_schedule_by_hand(fields: dict[str, Any], expected: dict[float, float]) -> None:
    settings = TrainingSettings(learning_rate=0.1, **fields)
    for progress, rate in expected.items():
        assert settings.learning_rate_at(progress) == pytest.approx(rate, abs=1e-9), f"at {progress}"


def test_the_schedule_is_the_one_applied(run: Train, settings: TrainingSettings) -> None:
    told = run(settings=settings.model_copy(update={"schedule": "step"})).told
    assert [round(fraction * 4 * BATCHES) for fraction, _ in told] == list(range(4 * BATCHES))
    rates = [figures["lr"] for _, figures in told]
    assert rates == pytest.approx([0.05] * 8 + [0.005] * 4 + [0.0005] * 4)


class Linear(Defense):
    """The loss is `slope` times the mean of the logits: its gradient is as large as one likes."""

    slope: float

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """One term."""
        return {"linear": self.slope * network.at(FLOAT)(batch.images).mean()}


class Broken(Defense):
    """A second term that is not finite from step `at` on."""

    at: int
    value: str = "nan"

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Two terms."""
        clean = functional.cross_entropy(network.at(FLOAT)(batch.images), batch.labels)
        broken = step.epoch_fraction * 4 * BATCHES >= self.at - 0.5
        return {"clean": clean, "smoothness": clean * float(self.value if broken else 1)}


def applied_norm(run: Train, settings: TrainingSettings, slope: float, clip: float | None) -> float:
    """Norm of the first update divided by the learning rate, without momentum and decay: the applied gradient."""
    fields = {"epochs": 1, "batch_size": 96, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    chosen = TrainingSettings(**{**settings.model_dump(), **fields, "gradient_clip": clip})
    after = run(defense=Linear(name="linear", slope=slope), settings=chosen).state
    before = run(settings=chosen.model_copy(update={"epochs": 0})).state
    names = [name for name, _ in TinyNet().named_parameters()]
    squares = sum(float((after[name] - before[name]).double().square().sum()) for name in names)
    return float(squares**0.5 / settings.learning_rate)


def test_clipping_bounds_the_gradient_that_is_applied(run: Train, settings: TrainingSettings) -> None:
    free = applied_norm(run, settings, 1.0, None)
    assert applied_norm(run, settings, 1.0, 10 * free) == pytest.approx(free, rel=1e-3), "small gradients stay"
    assert applied_norm(run, settings, 1.0, 0.5 * free) == pytest.approx(0.5 * free, rel=1e-3)
    assert applied_norm(run, settings, 100.0, None) == pytest.approx(100 * free, rel=1e-2)
    assert applied_norm(run, settings, 100.0, 0.5 * free) == pytest.approx(0.5 * free, rel=1e-3)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_names_term_epoch_and_step(run: Train, value: str) -> None:
    with pytest.raises(TrainingError, match=r"'smoothness' became -?(nan|inf) in epoch 2, step 3") as raised:
        run(defense=Broken(name="broken", at=BATCHES + 2, value=value))
    assert "learning_rate" in str(raised.value), "the message must say what to do"


def test_decay_acts_on_weights_and_not_on_learned_scales(
    run: Train, settings: TrainingSettings, quantizer: Qat
) -> None:
    """A defense without any gradient leaves decay alone at work: w * (1 - rate * decay) per step."""
    fields = {"weight_decay": 0.1, "momentum": 0.0, "schedule": "constant", "epochs": 2}
    chosen = TrainingSettings(**{**settings.model_dump(), **fields})
    bits = (Bits.parse(4),)
    task = {"quantizer": Qat(name="qat", bits=bits), "bits": bits, "defense": Still(name="still")}
    before = run(settings=chosen.model_copy(update={"epochs": 0}), **task).state
    after = run(settings=chosen, **task).state
    shrunk = (1 - 0.05 * 0.1) ** (2 * BATCHES)
    scales = [name for name in before if ".scale_4" in name]
    assert len(scales) == 5
    for name in scales:
        assert torch.equal(after[name], before[name]), f"{name} was decayed"
    for name in ("conv.weight", "next.weight", "next.bias", "head.weight"):
        assert torch.allclose(after[name], shrunk * before[name], rtol=1e-4), f"{name} was not decayed as asked"


class Still(Defense):
    """Every parameter has a gradient, and it is zero."""

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """One term."""
        return {"zero": 0 * network.at(step.bits[0])(batch.images).sum()}


@pytest.mark.numerical
def test_mixed_precision_is_close_to_full(run: Train, settings: TrainingSettings, splits: Splits) -> None:
    chosen = settings.model_copy(update={"epochs": 2})
    full = run(settings=chosen, build=WithoutDropout)
    mixed = run(settings=chosen.model_copy(update={"precision": "bf16-mixed"}), build=WithoutDropout)
    assert not same(full.state, mixed.state), "bf16 changed nothing: it was not used"
    for name, tensor in mixed.state.items():
        assert tensor.dtype == full.state[name].dtype, f"{name} is stored in another precision"
        if tensor.is_floating_point():
            assert float((tensor - full.state[name]).norm()) <= 0.1 * float(full.state[name].norm()) + 0.02
    losses = [run.snapshots[2].log[0]["losses"]["clean"] for run in (full, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


class WithoutDropout(TinyNet):
    """Deterministic, so that two precisions can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = torch.nn.Dropout(0.0)


def accuracy(network: torch.nn.Module, splits: Splits) -> float:
    with torch.no_grad():
        predicted = network.eval()(to_float(splits.evaluation.pixels)).argmax(dim=1)
    return float((predicted == splits.evaluation.labels).float().mean())


@pytest.mark.numerical
@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
def test_a_learnable_task_is_learned(run: Train, splits: Splits, augmentation: str) -> None:
    settings = TrainingSettings(
        epochs=12,
        batch_size=24,
        learning_rate=0.05,
        schedule="cosine",
        augmentation=augmentation,
    )
    trained = run(settings=settings)
    losses = [trained.snapshots[epoch].log[0]["losses"]["clean"] for epoch in range(1, 13)]
    assert losses[-1] < 0.6 * losses[0]
    network = TinyNet()
    network.load_state_dict(trained.state)
    assert accuracy(network, splits) > 0.8


@pytest.mark.numerical
def test_quantized_training_is_learned_at_every_width(run: Train, splits: Splits, quantizer: Qat) -> None:
    settings = TrainingSettings(epochs=12, batch_size=24, learning_rate=0.05, schedule="cosine", augmentation="none")
    task = {"defense": QuantizationAwareTraining(name="qat"), "quantizer": quantizer, "bits": quantizer.bits}
    trained = run(settings=settings, **task)
    checkpoint = Checkpoint(TinyNet, trained.state, quantizer, quantizer.bits)
    for bits in quantizer.bits:
        deployed = quantizer.deploy(checkpoint, bits, to_float(splits.calibration.pixels))
        assert accuracy(deployed, splits) > 0.8, f"at {bits} bits"


@dataclass
class Spy:
    """A switchable network that answers scripted logits and notes what it was asked."""

    asked: list[Bits]

    def at(self, bits: Bits) -> Callable[[torch.Tensor], torch.Tensor]:
        """Logits that depend on the bits."""
        self.asked.append(bits)
        return lambda images: images.flatten(1)[:, :4] * bits.weight

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """No layer to look at."""
        return Observed(self.at(bits)(images), {})

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """None."""
        return ()

    def evaluating(self) -> AbstractContextManager[None]:
        """It has no mode."""
        return nullcontext()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(6, 3, SIDE, SIDE, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1]))


def test_no_defense_is_cross_entropy_at_32_bits(batch: Batch) -> None:
    spy = Spy([])
    defense = NoDefense(name="none")
    losses = defense.loss(spy, batch, Step(0.0, (FLOAT,), torch.Generator()))
    expected = functional.cross_entropy(32 * batch.images.flatten(1)[:, :4], batch.labels)
    assert {name: float(value) for name, value in losses.items()} == {"clean": pytest.approx(float(expected))}
    assert spy.asked == [FLOAT]
    assert not defense.quantization_aware


def test_joint_training_is_the_mean_of_the_single_widths(batch: Batch) -> None:
    bits = tuple(map(Bits.parse, (32, 8, 4)))
    defense = QuantizationAwareTraining(name="qat")
    generator = torch.Generator()
    joint = float(defense.loss(Spy([]), batch, Step(0.0, bits, generator))["clean"])
    single = [float(defense.loss(Spy([]), batch, Step(0.0, (width,), generator))["clean"]) for width in bits]
    assert joint == pytest.approx(sum(single) / 3)
    assert len(set(single)) == 3


def test_groups_of_bits() -> None:
    bits = tuple(map(Bits.parse, (32, 8, 4)))
    assert QuantizationAwareTraining(name="qat").bit_groups(bits) == (bits,)
    assert QuantizationAwareTraining(name="qat", joint=False).bit_groups(bits) == tuple((width,) for width in bits)
    assert NoDefense(name="none").active_bits(0.3, bits) == bits


def test_separate_training_touches_one_width(run: Train) -> None:
    bits = (Bits.parse(4),)
    quantizer = Qat(name="qat", bits=bits)
    state = run(defense=QuantizationAwareTraining(name="qat", joint=False), quantizer=quantizer, bits=bits).state
    assert any(".scale_4" in name for name in state)
    assert not any(".scale_8" in name for name in state)


def test_float_networks_have_no_other_widths(run: Train) -> None:
    with pytest.raises(QPatchBenchError, match="no quantizers for 4 bits"):
        run(defense=QuantizationAwareTraining(name="qat"), bits=(Bits.parse(4),))


class Looking(Defense):
    """Notes every batch of images."""

    _seen: list[torch.Tensor] = PrivateAttr(default_factory=list)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Ordinary, after noting."""
        self._seen.append(batch.images)
        return {"clean": functional.cross_entropy(network.at(FLOAT)(batch.images), batch.labels)}


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
def test_batches_are_augmented_images_in_range(
    run: Train, splits: Splits, settings: TrainingSettings, augmentation: str
) -> None:
    before = splits.train.pixels.clone()
    defense = Looking(name="looking")
    run(defense=defense, settings=settings.model_copy(update={"augmentation": augmentation}))
    images = torch.cat(defense._seen)
    assert torch.equal(splits.train.pixels, before)
    assert images.dtype == torch.float32
    assert images.shape == (4 * 96, 3, SIDE, SIDE)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    levels = images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4), "augmentation invents levels"
    known = {image.numpy().tobytes() for image in to_float(splits.train.pixels)}
    exact = [image.numpy().tobytes() in known for image in images]
    assert all(exact) if augmentation == "none" else 0 < sum(exact) < len(exact)
    if augmentation == "none":
        epoch = [image.numpy().tobytes() for image in images[:96]]
        assert len(set(epoch)) == 96, "an epoch must use every image once"
        assert epoch != [image.numpy().tobytes() for image in images[96:192]], "every epoch has its own order"


def test_an_initial_state_is_where_training_starts(run: Train, settings: TrainingSettings) -> None:
    parent = run()
    unchanged = run(initial=parent.state, settings=settings.model_copy(update={"epochs": 0}), seed=5)
    assert same(unchanged.state, parent.state)


def test_quantizers_start_from_an_initial_float_state(run: Train, settings: TrainingSettings, quantizer: Qat) -> None:
    parent = run()
    child = run(
        initial=parent.state,
        settings=settings.model_copy(update={"epochs": 0}),
        quantizer=quantizer,
        bits=quantizer.bits,
        defense=QuantizationAwareTraining(name="qat"),
    )
    assert same(float_part(child.state), parent.state)


def test_fewer_images_than_a_batch_still_train(run: Train, settings: TrainingSettings) -> None:
    big = settings.model_copy(update={"batch_size": 500, "epochs": 2})
    trained = run(settings=big)
    assert len(trained.told) == 2
    assert math.isfinite(trained.told[-1][1]["clean"])


def test_after_backward_may_change_the_gradients(run: Train, settings: TrainingSettings) -> None:
    chosen = settings.model_copy(update={"weight_decay": 0.0, "epochs": 1})
    frozen = run(defense=Zeroing(name="zeroing"), settings=chosen).state
    start = run(settings=chosen.model_copy(update={"epochs": 0})).state
    names = [name for name, _ in TinyNet().named_parameters()]
    assert all(torch.equal(frozen[name], start[name]) for name in names)


class Zeroing(NoDefense):
    """Throws every gradient away."""

    def after_backward(self, parameters: list[torch.nn.Parameter], step: Step) -> None:
        """In place."""
        assert all(parameter.grad is not None for parameter in parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
