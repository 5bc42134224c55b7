"""QADT-R: what is drawn, what is minimised, which gradients change, and its three ablations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from qpatchbench.defenses.base import Batch, Observed, Step
from qpatchbench.defenses.qadtr import Qadtr
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.quantized_patches import quantize_pixels
from qpatchbench.quantizers.qat import Qat
from qpatchbench.registry import DEFENSES
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Network
from tests.training.conftest import Run, same

Train = Callable[..., Run]
WIDTHS = tuple(map(Bits.parse, (32, 8, 5, 4, 2)))
SIDE, COUNT, CLASSES = 8, 9, 4
OFF = {"patches": "none", "switching": "joint", "gradient_inconsistency": "none"}
SMALL = {"size": 3, "steps": 2}


def qadtr(**fields: Any) -> Qadtr:  # noqa: ANN401
    return Qadtr.model_validate({"name": "qadtr", **fields})


def step(index: int = 0, bits: tuple[Bits, ...] = WIDTHS, seed: int = 0, fraction: float = 0.0) -> Step:
    return Step(fraction, bits, torch.Generator(), index, seed)


def batch(count: int = COUNT) -> Batch:
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Batch(images[:count], (torch.arange(COUNT) % CLASSES)[:count])


class Spy:
    """Linear at every width; notes widths, images and mode of every call."""

    def __init__(self) -> None:
        weight = 0.3 * torch.randn(CLASSES, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1))
        self.weight = torch.nn.Parameter(weight)
        self.calls: list[tuple[Bits, torch.Tensor, bool]] = []
        self.training = True

    def at(self, bits: Bits) -> Network:
        """The network at `bits`."""

        def answer(images: torch.Tensor) -> torch.Tensor:
            self.calls.append((bits, images.detach(), self.training))
            return images.flatten(1) @ (self.weight * (1 + 1 / bits.weight)).T

        return answer

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Nothing inside."""
        return Observed(self.at(bits)(images), {})

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """None."""
        return ()

    def evaluating(self) -> AbstractContextManager[None]:
        """Notes it."""

        @contextmanager
        def quiet() -> Iterator[None]:
            self.training = False
            yield
            self.training = True

        return quiet()

    @property
    def trained(self) -> list[tuple[Bits, torch.Tensor]]:
        """Calls in training mode."""
        return [(bits, images) for bits, images, training in self.calls if training]

    @property
    def attacked(self) -> list[tuple[Bits, torch.Tensor]]:
        """Calls in eval mode."""
        return [(bits, images) for bits, images, training in self.calls if not training]


# Equation 2: widths.


def test_widths_are_uniform_and_belong_to_seed_and_step() -> None:
    drawn = [qadtr().drawn_bits(step(index)) for index in range(2000)]
    assert all(len(widths) == 1 for widths in drawn)
    counts = Counter(widths[0] for widths in drawn)
    assert set(counts) == set(WIDTHS)
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 13.28, "chi-squared of 4 degrees, p = 0.01"
    assert drawn == [qadtr().drawn_bits(step(index)) for index in range(2000)]
    assert drawn != [qadtr().drawn_bits(step(index, seed=1)) for index in range(2000)]
    repeats = sum(first == second for first, second in zip(drawn, drawn[1:], strict=False))
    assert 330 < repeats < 470, "one step must not tell the next"


def test_independent_widths_are_uniform_over_all_pairs() -> None:
    pairs = tuple(Bits(weight, activation) for weight in (32, 8, 4) for activation in (32, 8, 4))
    defense = qadtr(draw="independent")
    assert defense.bit_groups(pairs) == (pairs,)
    drawn = [defense.drawn_bits(step(index, pairs))[0] for index in range(1800)]
    table = torch.tensor(
        [[drawn.count(Bits(weight, activation)) for weight in (32, 8, 4)] for activation in (32, 8, 4)]
    )
    assert float(((table - 200) ** 2 / 200).sum()) < 20.09, "chi-squared of 8 degrees, p = 0.01"


@pytest.mark.parametrize(
    ("fields", "bits", "message"),
    [
        ({"draw": "independent"}, ("8", "4"), r"found 8, 4; add w8a4, w4a8, or use draw: tied"),
        ({"draw": "independent"}, ("8", "4", "w4a8"), r"add w8a4, or use"),
        ({}, ("8", "4", "w4a8"), r"equal widths of weights and activations, found w4a8 among"),
        ({"patches": "float"}, ("8", "4"), r"patches: float needs 32 .*, found 8, 4; add 32"),
        ({"patches": "float", "switching": "fixed"}, ("32", "4"), r"found 4; add 32 .* not use switching: fixed"),
    ],
)
def test_bits_that_cannot_be_trained_are_an_error_before_training(
    fields: dict[str, Any], bits: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TrainingError, match=message) as raised:
        qadtr(label="mine", **fields).bit_groups(tuple(map(Bits.parse, bits)))
    assert str(raised.value).startswith("mine: ")


def test_only_random_widths_care_about_pairs() -> None:
    bits = (Bits.parse(8), Bits.parse("w4a8"))
    for switching in ("cycle", "joint", "fixed"):
        assert sum(qadtr(switching=switching).bit_groups(bits), ()) == bits


def test_a_cycle_descends_in_equal_shares() -> None:
    defense, shuffled = qadtr(switching="cycle"), (WIDTHS[2], *WIDTHS[:2], *WIDTHS[3:])
    trained: list[Bits] = []
    for index in range(100):
        active = defense.active_bits(index / 100, shuffled)
        trained += defense.drawn_bits(step(index, active))
    assert [bits.weight for bits in trained] == [32] * 20 + [8] * 20 + [5] * 20 + [4] * 20 + [2] * 20
    assert defense.active_bits(0.5, shuffled) == WIDTHS[:3], "patches are made at every level reached"
    assert defense.active_bits(1.0, shuffled) == WIDTHS
    assert qadtr().active_bits(0.1, shuffled) == shuffled


def test_joint_and_fixed_widths() -> None:
    assert qadtr(switching="joint").drawn_bits(step()) == WIDTHS
    assert qadtr(switching="joint").bit_groups(WIDTHS) == (WIDTHS,)
    groups = qadtr(switching="fixed").bit_groups(WIDTHS)
    assert groups == tuple((bits,) for bits in WIDTHS)
    assert all(qadtr(switching="fixed").drawn_bits(step(bits=group)) == group for group in groups)


# The loss.


@pytest.mark.parametrize("switching", ["random", "joint"])
def test_the_loss_by_hand(switching: str) -> None:
    network, defense = Spy(), qadtr(switching=switching, **SMALL)
    losses = defense.loss(network, batch(), step())
    assert [bits for bits, _ in network.trained] == list(defense.drawn_bits(step()))
    clean, patched = [], []
    for bits, images in network.trained:
        assert torch.equal(images[:5], batch().images[:5]), "the first half stays clean, the odd image too"
        logits = images.flatten(1) @ (network.weight * (1 + 1 / bits.weight)).T
        clean.append(functional.cross_entropy(logits[:5], batch().labels[:5]) / 2)
        patched.append(functional.cross_entropy(logits[5:], batch().labels[5:]) / 2)
    assert torch.allclose(losses["clean"], torch.stack(clean).mean(), rtol=1e-5)
    assert torch.allclose(losses["patched"], torch.stack(patched).mean(), rtol=1e-5)
    (gradient,) = torch.autograd.grad(losses["clean"] + losses["patched"], network.weight)
    (expected,) = torch.autograd.grad((torch.stack(clean) + torch.stack(patched)).mean(), network.weight)
    assert torch.allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
@pytest.mark.parametrize("quantized", ["patch", "image"])
def test_patched_images_are_those_of_equation_1(bits: Bits, quantized: str) -> None:
    network, defense = Spy(), qadtr(quantized=quantized, **SMALL)
    defense.loss(network, batch(), step(bits=(bits,)))
    ((trained, images),) = network.trained
    assert trained == bits
    attacked = batch().images[5:]
    texture = quantize_pixels(defense.texture(Spy(), Batch(attacked, batch().labels[5:]), step(bits=(bits,))), bits)
    background = quantize_pixels(attacked, bits) if quantized == "image" else attacked
    for image, clean in zip(images[5:], background, strict=True):
        windows = image.unfold(1, 3, 1).unfold(2, 3, 1)
        found = (windows == texture[0].view(3, 1, 1, 3, 3)).flatten(3).all(dim=3).all(dim=0).nonzero()
        assert len(found) >= 1, "the patch is not in the image"
        row, column = found[0].tolist()
        outside = torch.ones_like(image, dtype=torch.bool)
        outside[:, row : row + 3, column : column + 3] = False
        assert torch.equal(image[outside], clean[outside])


def test_the_inner_loop_sees_the_second_half_at_random_widths_in_eval_mode() -> None:
    network = Spy()
    qadtr(size=3, steps=60).loss(network, batch(), step())
    assert network.training, "training mode was not restored"
    assert len(network.attacked) == 60
    assert {bits for bits, _ in network.attacked} == set(WIDTHS)
    assert all(images.shape == (4, 3, SIDE, SIDE) for _, images in network.attacked)
    assert network.weight.grad is None


@pytest.mark.numerical
def test_the_inner_loop_raises_the_loss_that_is_trained_on() -> None:
    losses = {
        steps: sum(
            float(qadtr(size=7, steps=steps).loss(Spy(), batch(), step(index))["patched"].detach())
            for index in range(8)
        )
        for steps in (0, 10)
    }
    assert losses[10] > 1.5 * losses[0]


def test_float_patches_come_from_the_float_network_and_are_not_quantized() -> None:
    network, defense = Spy(), qadtr(patches="float", size=3, steps=5)
    at = next(index for index in range(50) if defense.drawn_bits(step(index))[0].weight == 2)
    defense.loss(network, batch(), step(at))
    assert {bits for bits, _ in network.attacked} == {FLOAT}
    ((bits, images),) = network.trained
    assert bits == Bits.parse(2)
    texture = defense.texture(Spy(), Batch(batch().images[5:], batch().labels[5:]), step(at))
    pasted = torch.unique(images[5:][images[5:] != batch().images[5:]])
    assert torch.equal(pasted, torch.unique(texture)), "the texture's own values, not the four levels of 2 bits"
    assert len(pasted) > 20


def test_patches_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(TrainingError, match="no larger than the training images of 8 x 8 pixels, found 9 x 9"):
        qadtr(size=9).loss(Spy(), batch(), step())
    with pytest.raises(TrainingError, match="batch_size of at least 2, half of it patched, found 1"):
        qadtr().loss(Spy(), batch(1), step())
    assert set(qadtr(patches="none").loss(Spy(), batch(1), step())) == {"clean"}


def test_the_default_size_is_the_papers_on_cifar() -> None:
    assert qadtr().size.side(32) == 6
    assert qadtr(size=8).size.side(32) == 8


# Equations 4 and 5.


def gradients() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(2)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((5, 4), (3,), ())]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return [*parameters, torch.nn.Parameter(torch.zeros(2))]


def after(defense: Qadtr, at: Step) -> list[torch.Tensor]:
    parameters = gradients()
    defense.after_backward(parameters, at)
    assert parameters[-1].grad is None, "a parameter without a gradient got one"
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def untouched(defense: Qadtr, at: Step) -> bool:
    before = [parameter.grad for parameter in gradients() if parameter.grad is not None]
    return all(torch.equal(own, other) for own, other in zip(before, after(defense, at), strict=True))


@pytest.mark.parametrize(
    "fields",
    [{"strength": 0}, {"share": 0}, {"share": 0, "timing": "regular"}, {"gradient_inconsistency": "none"},
     {"gradient_inconsistency": "patches"}],
    ids=str,
)  # fmt: skip
def test_gradients_stay_bitwise_where_nothing_is_asked(fields: dict[str, Any]) -> None:
    assert all(untouched(qadtr(**fields), step(index)) for index in range(20))


def test_gradients_change_at_half_of_the_quantized_steps() -> None:
    defense = qadtr()
    quantized = [index for index in range(1500) if not defense.drawn_bits(step(index))[0].is_float]
    changed = [index for index in quantized if not untouched(defense, step(index))]
    assert len(changed) / len(quantized) == pytest.approx(0.5, abs=0.05)
    floats = sorted(set(range(1500)) - set(quantized))
    assert 200 < len(floats) < 400
    assert all(untouched(qadtr(share=1.0), step(index)) for index in floats)
    assert not any(untouched(qadtr(share=1.0), step(index)) for index in quantized[:50])


@pytest.mark.parametrize(("share", "every"), [(1.0, 1), (0.5, 2), (0.25, 4)])
def test_regular_timing_is_evenly_spaced(share: float, every: int) -> None:
    defense = qadtr(share=share, timing="regular")
    bits = (Bits.parse(4),)
    assert [defense.disrupts(step(index, bits)) for index in range(24)] == [
        index % every == every - 1 for index in range(24)
    ]


def test_one_quantized_side_is_enough() -> None:
    assert qadtr(share=1.0).disrupts(step(bits=(Bits.parse("w32a8"),)))
    assert qadtr(share=1.0, switching="joint").disrupts(step())
    assert not qadtr(share=1.0, switching="joint").disrupts(step(bits=(FLOAT,)))


def test_changed_gradients_are_those_of_equation_4() -> None:
    defense = qadtr(share=1.0, noise=0.0, strength=0.3, parallel=2.0)
    before = [parameter.grad for parameter in gradients() if parameter.grad is not None]
    for own, other in zip(before, after(defense, step(bits=(Bits.parse(4),))), strict=True):
        assert torch.allclose(other, own * (1 + 0.6 / (own.norm() + 1e-5)), rtol=1e-6)


def test_noise_differs_between_steps_and_not_between_calls() -> None:
    defense, bits = qadtr(share=1.0), (Bits.parse(4),)
    first, again, other = (after(defense, step(index, bits)) for index in (3, 3, 4))
    assert first, "no gradient was changed"
    assert all(torch.equal(own, same) for own, same in zip(first, again, strict=True))
    assert all(not torch.equal(own, different) for own, different in zip(first, other, strict=True))


def test_perturbed_patch_gradients_make_other_patches() -> None:
    plain, perturbed, never = (
        qadtr(size=3, steps=10, strength=10.0, share=share, gradient_inconsistency=target)
        for target, share in (("none", 1.0), ("patches", 1.0), ("patches", 0.0))
    )
    made = [defense.texture(Spy(), batch(), step()) for defense in (plain, perturbed, never)]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    floats = [defense.texture(Spy(), batch(), step(bits=(FLOAT,))) for defense in (plain, perturbed)]
    assert torch.equal(*floats), "only quantized gradients are changed"


# Training, with the real loop.


@pytest.fixture
def task(quantizer: Qat, settings: TrainingSettings) -> dict[str, Any]:
    return {"quantizer": quantizer, "bits": quantizer.bits, "settings": settings.model_copy(update={"epochs": 2})}


def test_with_everything_off_it_is_joint_qat_to_the_bit(run: Train, task: dict[str, Any]) -> None:
    plain = run(defense=QuantizationAwareTraining(name="qat"), **task)
    assert same(run(defense=qadtr(**OFF), **task).state, plain.state)


def test_fixed_and_without_the_rest_it_is_separate_qat_to_the_bit(run: Train, task: dict[str, Any]) -> None:
    own = {**task, "bits": (Bits.parse(4),)}
    plain = run(defense=QuantizationAwareTraining(name="qat", joint=False), **own)
    assert same(run(defense=qadtr(**{**OFF, "switching": "fixed"}), **own).state, plain.state)


@pytest.mark.parametrize("fields", [{"strength": 0.0}, {"share": 0.0}], ids=str)
def test_no_strength_and_no_share_train_as_no_inconsistency(
    run: Train, task: dict[str, Any], fields: dict[str, Any]
) -> None:
    without = run(defense=qadtr(gradient_inconsistency="none", **SMALL), **task)
    assert same(run(defense=qadtr(**fields, **SMALL), **task).state, without.state)


def test_every_part_changes_what_is_learned(run: Train, task: dict[str, Any]) -> None:
    variants: list[dict[str, Any]] = [
        {}, {"patches": "float"}, {"patches": "none"}, {"switching": "joint"}, {"switching": "cycle"},
        {"gradient_inconsistency": "none"}, {"gradient_inconsistency": "patches", "strength": 10.0},
        {"quantized": "image"}, {"steps": 0}, {"size": 4}, {"noise_scaling": "relative"}, {"timing": "regular"},
        {"epsilon_at": "sum"}, {"norm": "network"},
    ]  # fmt: skip
    states = [run(defense=qadtr(**{**SMALL, **fields}), **task).state for fields in variants]
    for index, state in enumerate(states):
        assert all(bool(torch.isfinite(value).all()) for value in state.values())
        for other in range(index):
            assert not same(state, states[other]), f"{variants[index]} learns what {variants[other]} does"


def test_a_fixed_width_learns_with_patches_of_its_own(run: Train, task: dict[str, Any]) -> None:
    own = {**task, "bits": (Bits.parse(4),)}
    state = run(defense=qadtr(switching="fixed", **SMALL), **own).state
    assert not same(state, run(defense=qadtr(switching="fixed", **{**SMALL, "patches": "none"}), **own).state)


@pytest.mark.parametrize("switching", ["random", "cycle"])
def test_training_resumes_to_the_bit(run: Train, task: dict[str, Any], switching: str) -> None:
    defense = qadtr(switching=switching, **SMALL)
    longer = {**task, "settings": task["settings"].model_copy(update={"epochs": 4})}
    whole = run(defense=defense, **longer)
    for epochs in (1, 3):
        assert same(run(defense=defense, snapshot=whole.snapshots[epochs], **longer).state, whole.state)


def test_a_step_trains_one_width(run: Train, task: dict[str, Any]) -> None:
    """BatchNorm counts its batches: all steps together, and as often as each width was drawn."""
    defense = qadtr(**SMALL)
    state = run(defense=defense, **task).state
    drawn = Counter(str(defense.drawn_bits(step(index, task["bits"]))[0]) for index in range(8))
    counted = {bits: int(state[f"norm.at_bits.{bits}.num_batches_tracked"]) for bits in ("32", "8", "4")}
    assert counted == {bits: drawn[bits] for bits in counted}
    assert sum(counted.values()) == 8, "making patches must not move statistics"


@pytest.mark.numerical
def test_the_loss_falls(run: Train, task: dict[str, Any]) -> None:
    longer = TrainingSettings(epochs=12, batch_size=24, learning_rate=0.05, schedule="cosine", augmentation="none")
    snapshots = run(defense=qadtr(**SMALL), **{**task, "settings": longer}).snapshots
    sums = [sum(snapshots[epoch].log[0]["losses"].values()) for epoch in (1, 12)]
    assert sums[1] < 0.8 * sums[0]
    assert set(snapshots[1].log[0]["losses"]) == {"clean", "patched"}


def test_mixed_precision_makes_patches_too(run: Train, task: dict[str, Any]) -> None:
    half = {**task, "settings": task["settings"].model_copy(update={"precision": "bf16-mixed"})}
    full, mixed = (run(defense=qadtr(**SMALL), **chosen) for chosen in (task, half))
    assert not same(full.state, mixed.state)
    for epoch in (1, 2):
        losses = [trained.snapshots[epoch].log[0]["losses"] for trained in (full, mixed)]
        assert losses[0]["patched"] == pytest.approx(losses[1]["patched"], rel=0.1)


@pytest.mark.parametrize(
    ("fields", "passes"),
    [({}, 18.0), ({"patches": "none"}, 3.0), ({"steps": 25}, 40.5), ({"switching": "joint"}, 30.0), (OFF, 15.0)],
    ids=str,
)
def test_the_estimate_of_passes(fields: dict[str, Any], passes: float) -> None:
    assert qadtr(**fields).passes(WIDTHS) == passes


@pytest.mark.parametrize(
    ("field", "value"),
    [("patches", "clean"), ("steps", -1), ("step_size", 0), ("step_size", 2), ("size", 0), ("quantized", "mask"),
     ("switching", "off"), ("draw", "both"), ("gradient_inconsistency", True), ("share", 1.1), ("timing", "never"),
     ("strength", -1), ("noise", -1), ("noise_deviation", -0.1), ("epsilon", -1e-5), ("epsilon_at", "top"),
     ("norm", "layer"), ("noise_scaling", "none"), ("sigma", 0.05)],
)  # fmt: skip
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        qadtr(**{field: value})


def test_it_is_in_the_catalogue() -> None:
    assert DEFENSES.get("qadtr") is Qadtr
    assert Qadtr.quantization_aware
