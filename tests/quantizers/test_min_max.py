"""The asymmetric quantizer of Double-Win Quant, and layers that stay in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qpatchbench.ops.quantization.fake_quantization import extremes, fake_quantize_between
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.frozen.folding import fold_batch_norm
from qpatchbench.quantizers.frozen.network import freeze
from qpatchbench.quantizers.inspection.audit_layers import audit, effective_bits, unquantized_operations
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.fake_quantizers import ActivationQuantizer, Role, WeightQuantizer
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits, switchable_layers
from qpatchbench.types import FLOAT, Bits
from tests.quantizers.test_double_backward import penalised, vision_transformer

Make = Callable[..., nn.Module]
Build = Callable[[], nn.Module]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(module: nn.Module, width: object, images: torch.Tensor) -> torch.Tensor:
    set_bits(module, Bits.parse(width))
    output: torch.Tensor = module(images)
    return output.detach()


def observer(*widths: int) -> ActivationQuantizer:
    bits = tuple(Bits(width, width) for width in widths)
    quantizer = ActivationQuantizer(bits, "min_max", "same")
    quantizer.assign(Role(first=False, last=False, signed=True), torch.zeros(1))
    quantizer.active = bits[0]
    return quantizer


# --- the grid


def test_the_grid_by_hand() -> None:
    values = torch.tensor([-2.0, -1.0, -0.76, -0.74, 0.0, 0.4, 0.5, 9.0])
    found = fake_quantize_between(values, torch.tensor([-1.0, 0.5]), 2)
    assert torch.allclose(found, torch.tensor([-1.0, -1.0, -1.0, -0.5, 0.0, 0.5, 0.5, 0.5]))


@pytest.mark.numerical
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_grid_agrees_with_torch_where_zero_is_a_code(bits: int, axis: int | None) -> None:
    """An integer zero point makes the grid one that torch knows; there values agree up to rounding in the last bit."""
    values, largest = normal(6, 5, 7).clamp(-3, 3), 2**bits - 1
    step, zero = torch.tensor(0.03125 * 255 / largest), largest // 3
    limits = torch.stack([-zero * step, (largest - zero) * step])
    found = fake_quantize_between(
        values, limits if axis is None else limits.view(2, 1).expand(2, values.shape[axis]), bits, axis
    )
    expected = torch.fake_quantize_per_tensor_affine(values, float(step), zero, 0, largest)
    # A value that lies on a rounding boundary may go either way.
    differs = (found - expected).abs() > 1e-5
    assert float(differs.float().mean()) <= (0.02 if bits == 16 else 0)
    assert float((found - expected).abs().max()) <= float(step) * 1.01


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_algebra_of_the_grid(bits: int) -> None:
    values = normal(40, 50)
    limits = extremes(values)
    low, high = limits
    found = fake_quantize_between(values, limits, bits)
    step = (high - low) / (2**bits - 1)
    assert float((found - values).abs().max()) <= float(step) / 2 + 1e-6, "nothing is clipped"
    assert 0.75 * 2**bits < len(torch.unique(found)) <= 2**bits
    assert torch.equal(fake_quantize_between(found, limits, bits), found)
    assert float(found.min()) == float(low)
    assert float(found.max()) == pytest.approx(float(high), rel=1e-6)
    shifted = fake_quantize_between(values + 3, limits + 3, bits)
    assert float((shifted - 3 - found).abs().median()) < 1e-5
    narrow = fake_quantize_between(values, limits / 2, bits)
    assert float(narrow.min()) == float(low / 2), "clipped at the ends"


def test_more_bits_are_never_worse_and_a_point_range_is_its_value() -> None:
    values = normal(3000)
    errors = [
        float((fake_quantize_between(values, extremes(values), bits) - values).square().mean()) for bits in range(2, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    constant = torch.full((4, 3), 0.7)
    assert torch.equal(fake_quantize_between(constant, extremes(constant), 4), constant)
    point = torch.tensor([0.7, 0.7])
    assert torch.equal(fake_quantize_between(values[:9], point, 4), torch.full((9,), 0.7))


def test_extremes_are_those_of_each_channel() -> None:
    values = normal(4, 3, 5)
    assert torch.equal(extremes(values), torch.stack([values.min(), values.max()]))
    assert torch.equal(extremes(values, 1), torch.stack([values.amin((0, 2)), values.amax((0, 2))]))
    assert extremes(values.bfloat16()).dtype == torch.float32


def test_the_gradient_passes_also_where_values_are_clipped() -> None:
    values = torch.tensor([-5.0, 0.1, 0.3, 5.0], requires_grad=True)
    limits = torch.tensor([0.0, 1.0], requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 3.0, 4.0])
    torch.autograd.backward(fake_quantize_between(values, limits, 3), slope)
    assert torch.equal(values.grad, slope)  # type: ignore[arg-type]  # it was just set
    assert limits.grad is None
    half = normal(9).bfloat16()
    assert fake_quantize_between(half, torch.tensor([-1.0, 1.0]), 4).dtype == torch.bfloat16


# --- quantizers of one layer


def test_weights_use_the_range_of_each_channel() -> None:
    weight = normal(6, 50) * torch.arange(1, 7).view(-1, 1)
    quantizer = WeightQuantizer(6, (Bits(3, 3),), "min_max", "same")
    quantizer.initialize(weight, Role(first=False, last=False, signed=False))
    quantizer.active = Bits(3, 3)
    found = quantizer(weight)
    for row, raw in zip(found, weight, strict=True):
        expected = torch.linspace(float(raw.min()), float(raw.max()), 8)
        assert all(float((expected - value).abs().min()) < 1e-5 for value in row.unique())
        assert len(row.unique()) <= 8
    assert not list(quantizer.parameters()), "nothing is learned"
    assert not list(quantizer.buffers()), "nothing is observed"


def test_training_uses_the_batch_and_evaluation_nine_tenths_of_the_newest() -> None:
    quantizer = observer(4).train()
    batches = [normal(5, 8, seed=seed) * (seed + 1) for seed in range(3)]
    expected = torch.ones(2)
    for batch in batches:
        found = quantizer(batch)
        assert torch.equal(found, fake_quantize_between(batch, torch.stack([batch.min(), batch.max()]), 4))
        expected = 0.1 * expected + 0.9 * torch.stack([batch.min(), batch.max()])
    stored = quantizer.scale_at(Bits(4, 4))
    assert torch.allclose(stored, expected)
    quantizer.eval()
    wide = 10 * batches[0]
    assert torch.equal(quantizer(wide), fake_quantize_between(wide, stored, 4))
    assert torch.allclose(quantizer.scale_at(Bits(4, 4)), expected), "eval does not observe"
    with torch.no_grad():
        alone = torch.cat([quantizer(row) for row in wide.split(1)])  # type: ignore[no-untyped-call]  # torch's stub
    assert torch.equal(alone, quantizer(wide)), "in evaluation an image does not depend on its batch"


def test_all_widths_share_one_range() -> None:
    quantizer = observer(8, 4).train()
    assert [name for name, _ in quantizer.named_buffers()] == ["range"]
    batch = normal(5, 8)
    quantizer(batch)
    assert quantizer.scale_at(Bits(4, 4)) is quantizer.scale_at(Bits(8, 8))


def test_a_second_pass_before_backward_is_allowed() -> None:
    quantizer = observer(4).train()
    inputs = normal(3, 4).requires_grad_()
    torch.autograd.backward(quantizer(inputs).sum() + quantizer(inputs * 2).sum())
    assert torch.equal(inputs.grad, torch.full_like(inputs, 3.0))  # type: ignore[arg-type]  # it was just set


# --- networks


@pytest.mark.numerical
@pytest.mark.parametrize("first_last", ["same", "eight", "float"])
def test_32_bits_stay_bit_identical_and_16_are_close(
    build: Build, switchable: Make, images: torch.Tensor, first_last: str
) -> None:
    module = switchable(32, 16, 4, scale="min_max", first_last=first_last)
    reference = build().eval()
    expected = reference(images).detach()
    assert torch.equal(at(module, 32, images), expected)
    scale = float(expected.abs().max())
    assert float((at(module, 16, images) - expected).abs().max()) < 1e-2 * scale
    assert float((at(module, 4, images) - expected).abs().max()) > 1e-2 * scale, "else 16 bits would prove nothing"
    assert torch.equal(at(module, 32, images), expected), "switching back"
    for network in (module.train(), reference.train()):
        torch.autograd.backward(network(images).square().sum())
    assert torch.equal(module.stem[0].raw_weight.grad, reference.stem[0].weight.grad)  # type: ignore[index, union-attr]  # a toy


def test_initialisation_takes_the_range_of_the_float_path(build: Build, switchable: Make, images: torch.Tensor) -> None:
    inputs: list[torch.Tensor] = []
    reference = build().eval()
    reference.conv.register_forward_pre_hook(lambda layer, arguments: inputs.append(arguments[0]))  # type: ignore[union-attr]  # a toy
    reference(images)
    module = switchable(8, 2, scale="min_max")
    found = module.conv.activation_quantizer.scale_at(Bits(2, 2))  # type: ignore[union-attr, operator]  # a toy
    assert torch.allclose(found, extremes(inputs[0]))
    assert module.stem[0].activation_quantizer(images) is images  # type: ignore[index, union-attr]  # the image


@pytest.mark.parametrize("architecture", ["convolutional", "transformer"])
@pytest.mark.parametrize("width", [4, 8])
def test_every_parameter_gets_a_second_order_gradient(
    build: Build, images: torch.Tensor, architecture: str, width: int
) -> None:
    bits = Bits(width, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build() if architecture == "convolutional" else vision_transformer()
    prepare(module, (bits,), Qat(name="qat", bits=(bits,), scale="min_max"))
    initialize(module, images)
    module.train()
    set_bits(module, bits)
    penalised(module, images)
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
    layers = [layer for _, layer in switchable_layers(module)]
    assert all(bool(layer.raw_weight.grad.abs().sum() > 0) for layer in layers)  # type: ignore[union-attr]  # asserted above
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("width", [8, 5, 2, "w4a8", "w4a32", "w32a4"])
@pytest.mark.parametrize("first_last", ["same", "float"])
def test_freezing_changes_no_bit_of_the_answer(
    switchable: Make, images: torch.Tensor, width: object, first_last: Literal["same", "float"]
) -> None:
    module = switchable(32, width, scale="min_max", first_last=first_last)
    expected = at(module, width, images)
    freeze(module)
    assert torch.equal(module(images), expected)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert fold_batch_norm(module, images[:1]) == 2
    assert torch.equal(module(images).argmax(1), expected.argmax(1))


@pytest.mark.parametrize("width", [2, 3, 5])
def test_audit_counts_no_more_levels_than_bits_allow(switchable: Make, images: torch.Tensor, width: int) -> None:
    module = switchable(width, scale="min_max")
    set_bits(module, Bits(width, width))
    freeze(module)
    fold_batch_norm(module, images[:1])
    rows = audit(module, images)
    assert [row.name for row in rows] == ["stem.0", "conv", "head"]
    for row in rows:
        assert row.weight_bits == width
        assert row.weight_levels is not None
        assert row.weight_levels <= 2**width
        assert not row.signed
    most = max(row.weight_levels or 0 for row in rows)
    assert most == 2**width or width == 5, "one more than a symmetric grid has; at 5 bits there are too few weights"
    assert rows[0].activation_levels is None
    assert all(row.activation_levels is not None and row.activation_levels <= 2**width for row in rows[1:])
    assert f"FrozenActivation({width} bits, from 0 to " in repr(module)


class Residual(nn.Module):
    """Two convolutions with a strided 1x1 shortcut beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.narrow(self.stem(images).relu()).relu()
        features = (self.conv(features) + self.shortcut(features)).relu()
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


def residual() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual()


@pytest.mark.parametrize("scale", ["min_max", "ema", "lsq"])
def test_float_ends_and_shortcuts_stay_in_full_precision(
    images: torch.Tensor, scale: Literal["min_max", "ema", "lsq"]
) -> None:
    four = Bits(4, 4)
    module = residual()
    prepare(module, (FLOAT, four), Qat(name="qat", bits=(FLOAT, four), scale=scale, first_last="float"))
    initialize(module, images)
    set_bits(module.eval(), four)
    widths = {
        name: (layer.weight_quantizer.bits_at(four), layer.activation_quantizer.bits_at(four))
        for name, layer in switchable_layers(module)
    }
    kept = dict.fromkeys(("stem", "shortcut", "head"), (32, 32))
    assert widths == {**kept, "narrow": (4, 4), "conv": (4, 4)}, "a 1x1 convolution without stride is no shortcut"
    assert all(module.get_submodule(name).weight is module.get_submodule(name).raw_weight for name in kept)
    stored = {name.split(".")[0] for name in module.state_dict() if "range" in name or "scale" in name}
    assert stored == {"narrow", "conv"}
    expected = module(images).detach()
    freeze(module)
    assert torch.equal(module(images), expected)
    rows = {row.name: row for row in audit(module, images)}
    assert {name: row.weight_bits for name, row in rows.items()} == {**dict.fromkeys(kept, 32), "narrow": 4, "conv": 4}
    assert [name for name, row in rows.items() if row.weight_levels is None] == ["stem", "shortcut", "head"]
    assert 4 < effective_bits(rows.values()).weight < 32
    assert unquantized_operations(module) == ("stem", "shortcut", "head")


def test_other_policies_quantize_shortcuts(images: torch.Tensor) -> None:
    four = Bits(4, 4)
    for policy in ("same", "eight"):
        module = residual()
        prepare(module, (four,), Qat.model_validate({"name": "qat", "bits": (four,), "first_last": policy}))
        initialize(module, images)
        shortcut = dict(switchable_layers(module))["shortcut"]
        assert shortcut.weight_quantizer.bits_at(four) == 4


@pytest.mark.numerical
@pytest.mark.parametrize("first_last", ["same", "float"])
def test_a_checkpoint_survives_safetensors_and_deploys(
    build: Build, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory, first_last: Literal["same", "float"]
) -> None:
    widths = (FLOAT, Bits(8, 8), Bits(4, 4))
    quantizer = Qat(name="qat", bits=widths, scale="min_max", first_last=first_last)
    module = build()
    prepare(module, widths, quantizer)
    initialize(module, images)
    module.train()
    for width in widths:
        at(module, width, images)
    module.eval()
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)
    checkpoint = Checkpoint(build, load_file(path), quantizer, widths)
    for width in widths:
        expected = at(module, width, images)
        found = quantizer.deploy(checkpoint, width, images)(images)
        assert float((found - expected).abs().max()) <= 5e-3 * float(expected.abs().max())
