from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.quantization.fake_quantization import code_range, max_scale, mse_scale
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.fake_quantizers import ActivationQuantizer, Role, WeightQuantizer
from qpatchbench.quantizers.trained.layers import SwitchableBatchNorm
from qpatchbench.quantizers.trained.switchable import (
    float_state,
    initialize,
    load_float_state,
    prepare,
    recalibrate_batch_norm,
    set_bits,
    switchable_layers,
)
from qpatchbench.types import FLOAT, Bits

Make = Callable[..., nn.Module]
MODES = ["paper", "ema", "mse", "lsq"]


def bits(width: object) -> Bits:
    return Bits.parse(width)


def at(module: nn.Module, width: object, images: torch.Tensor) -> torch.Tensor:
    set_bits(module, bits(width))
    output: torch.Tensor = module(images)
    return output.detach()


def observed(width: int, signed: bool = False, scale: str = "ema") -> ActivationQuantizer:
    quantizer = ActivationQuantizer((Bits(width, width),), scale, "same")  # type: ignore[arg-type]  # parametrized
    quantizer.assign(Role(first=False, last=False, signed=signed), torch.zeros(1))
    quantizer.active = Bits(width, width)
    return quantizer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_norm", ["switchable", "shared"])
def test_32_bits_is_the_float_network_bit_for_bit(
    build: Callable[[], nn.Module], switchable: Make, images: torch.Tensor, mode: str, batch_norm: str
) -> None:
    reference = build()
    module = switchable(32, 8, 2, scale=mode, batch_norm=batch_norm)
    assert torch.equal(at(module, 32, images), reference.eval()(images))
    # In training mode too, gradients included.
    for network in (module.train(), reference.train()):
        torch.autograd.backward(network(images).square().sum())
    assert torch.equal(module.stem[0].raw_weight.grad, reference.stem[0].weight.grad)  # type: ignore[index, union-attr]  # a toy
    assert module.head.weight is module.head.raw_weight  # type: ignore[union-attr]  # a toy network's layer


@pytest.mark.parametrize("mode", MODES)
def test_switching_back_restores_outputs_bitwise(switchable: Make, images: torch.Tensor, mode: str) -> None:
    widths = (32, 8, 5, 4, 2, "w4a8", "w4a32")
    module = switchable(*widths, scale=mode)
    first = {width: at(module, width, images) for width in widths}
    for width in reversed(widths):
        assert torch.equal(at(module, width, images), first[width])
    assert len({tuple(output.flatten().tolist()) for output in first.values()}) == len(widths)


def test_names_of_the_float_network_stay(build: Callable[[], nn.Module], switchable: Make) -> None:
    reference = build().state_dict()
    module = switchable(32, 4)
    names = set(module.state_dict())
    assert {name for name in reference if "norm" not in name and "stem.1" not in name} <= names
    assert "norm.at_bits.32.running_var" in names
    assert "conv.activation_quantizer.scale_4" in names
    state = float_state(module)
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in reference)


def test_inactive_bits_get_no_gradients_and_no_statistics(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 8, 4, 2).train()
    before = copy.deepcopy(module.state_dict())
    set_bits(module, bits(4))
    torch.autograd.backward(module(images).square().sum())
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".at_bits.4." in name for name in changed)  # 4 bits learn their scales: nothing else observes
    for name, parameter in module.named_parameters():
        belongs_elsewhere = any(part in name for part in (".at_bits.32.", ".at_bits.8.", ".at_bits.2.", "scale_2"))
        assert (parameter.grad is None) == belongs_elsewhere, name
    set_bits(module, bits(8))
    module(images)
    later = module.state_dict()
    changed = {name for name in later if not torch.equal(later[name], before[name]) and ".at_bits.4." not in name}
    assert {"conv.activation_quantizer.scale_8", "head.activation_quantizer.scale_8"} <= changed
    assert all(".at_bits.8." in name or name.endswith("scale_8") for name in changed)


def test_ema_converges_on_a_constant_stream_and_is_frozen_in_eval() -> None:
    quantizer = observed(8).train()
    stream = torch.full((4, 3), 2.55)
    for step in range(1, 1500):
        quantizer(stream)
        if step == 10:
            expected = 0.01 + (1 - 0.01) * 0.99**10
            assert float(quantizer.scale_at(Bits(8, 8))) == pytest.approx(expected, rel=1e-5)
    assert float(quantizer.scale_at(Bits(8, 8))) == pytest.approx(0.01, rel=1e-4)
    quantizer.eval()
    frozen = quantizer.scale_at(Bits(8, 8)).clone()
    quantizer(stream * 100)
    assert torch.equal(quantizer.scale_at(Bits(8, 8)), frozen)


def test_observing_twice_before_backward_is_allowed() -> None:
    quantizer = observed(4, scale="ema").train()
    first = torch.rand(3, 4, requires_grad=True)
    loss = quantizer(first).sum() + quantizer(first * 2).sum()
    torch.autograd.backward(loss)
    assert first.grad is not None


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("mode", ["ema", "mse", "lsq"])
def test_activation_levels_and_sign(mode: str, signed: bool) -> None:
    quantizer = observed(3, signed, mode).eval()
    inputs = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    inputs = inputs if signed else inputs.relu()
    quantizer.scale_at(Bits(3, 3)).data.copy_(quantizer.observed_scale(inputs, Bits(3, 3)))
    output = quantizer(inputs)
    assert len(output.unique()) == (7 if signed else 8)
    assert (output.min() < 0) == signed


def test_initial_scales_are_those_of_the_float_path(
    build: Callable[[], nn.Module], switchable: Make, images: torch.Tensor
) -> None:
    inputs: list[torch.Tensor] = []
    reference = build().eval()
    reference.conv.register_forward_pre_hook(lambda layer, arguments: inputs.append(arguments[0]))  # type: ignore[union-attr]  # a toy
    reference(images)
    weight = reference.conv.weight  # type: ignore[union-attr]  # a toy network's layer
    for mode, rule in (("ema", lambda x, low, high: max_scale(x, high)), ("mse", mse_scale), ("lsq", mse_scale)):
        module = switchable(8, 2, scale=mode)
        for width in (8, 2):
            expected = rule(inputs[0], *code_range(width, signed=False))
            found = module.conv.activation_quantizer.scale_at(Bits(width, width))  # type: ignore[union-attr, operator]  # a toy
            assert torch.allclose(found, expected)
    module = switchable(4)
    found = module.conv.activation_quantizer.scale_at(Bits(4, 4))  # type: ignore[union-attr, operator]  # a toy
    assert torch.allclose(found, mse_scale(inputs[0], 0, 15))
    found = module.conv.weight_quantizer.scale_at(Bits(4, 4))  # type: ignore[union-attr, operator]  # a toy
    assert torch.allclose(found, mse_scale(weight, -7, 7, 0))  # type: ignore[arg-type]  # a parameter
    assert torch.allclose(module(images), reference(images))  # initialize left the bits where they were


def test_initialize_leaves_weights_statistics_and_modes_alone(
    build: Callable[[], nn.Module], images: torch.Tensor
) -> None:
    module = build()
    prepare(module, (bits(8), bits(2)), Qat(name="qat", bits=(bits(8),)))
    module.stem.eval()  # type: ignore[union-attr]  # a toy network's part
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    initialize(module, images)
    assert [part.training for part in module.modules()] == modes
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.endswith("_extra_state"))


def test_only_the_first_layer_takes_its_input_unrounded(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 2, scale="ema")
    set_bits(module, bits(2))
    roles = {name: layer.activation_quantizer.role for name, layer in switchable_layers(module)}
    assert roles == {
        "stem.0": Role(first=True, last=False, signed=False),
        "conv": Role(first=False, last=False, signed=False),
        "head": Role(first=False, last=True, signed=False),
    }
    assert module.stem[0].activation_quantizer(images) is images  # type: ignore[index, union-attr]  # a toy


def test_eight_bit_ends(switchable: Make) -> None:
    module = switchable(32, 16, 4, "w2a4", first_last="eight")
    all_bits: tuple[Bits, ...] = module.switchable_bits  # type: ignore[assignment]  # no tensor
    found = {
        name: [(layer.weight_quantizer.bits_at(each), layer.activation_quantizer.bits_at(each)) for each in all_bits]
        for name, layer in switchable_layers(module)
    }
    assert found["stem.0"] == [(32, 32), (16, 32), (8, 32), (8, 32)]
    assert found["conv"] == [(32, 32), (16, 16), (4, 4), (2, 4)]
    assert found["head"] == [(32, 32), (16, 16), (8, 8), (8, 8)]
    assert "head.weight_quantizer.scale_4" not in module.state_dict()  # 8 bits are not learned
    assert "conv.weight_quantizer.scale_4" in module.state_dict()


@pytest.mark.numerical
def test_two_bit_weights_survive_the_default_scale(switchable: Make) -> None:
    """Max-abs scales round most of a Gaussian layer to zero; the least squared error leaves P(|w| < 0.612) = 46 %."""
    weight = torch.randn(16, 576, generator=torch.Generator().manual_seed(0))
    zeros = {}
    for mode in ("paper", "ema"):
        quantizer = WeightQuantizer(16, (bits(2),), mode, "same")
        quantizer.initialize(weight, Role(first=False, last=False, signed=False))
        quantizer.active = bits(2)
        zeros[mode] = float((quantizer(weight) == 0).float().mean())
    assert zeros["ema"] > 0.84
    assert zeros["paper"] == pytest.approx(0.459, abs=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_state_survives_safetensors_and_a_fresh_network(
    build: Callable[[], nn.Module], switchable: Make, images: torch.Tensor, tmp_path: Path, mode: str
) -> None:
    widths = (32, 8, 2, "w4a8")
    module = switchable(*widths, scale=mode, first_last="eight")
    module.train()
    for width in widths:
        at(module, width, images)
    module.eval()
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, tmp_path / "state.safetensors")
    fresh = build().eval()
    with torch.no_grad():
        fresh.head.weight.zero_()  # type: ignore[union-attr, operator]  # a toy network's layer
    prepare(fresh, tuple(map(bits, widths)), Qat(name="qat", bits=(FLOAT,), scale=mode, first_last="eight"))
    fresh.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for width in widths:
        assert torch.equal(at(fresh, width, images), at(module, width, images))


def test_float_weights_enter_every_width(
    build: Callable[[], nn.Module], switchable: Make, images: torch.Tensor
) -> None:
    other = {name: value * 2 for name, value in build().state_dict().items()}
    module = switchable(32, 4)
    load_float_state(module, other)
    assert all(torch.equal(float_state(module)[name], value) for name, value in other.items())
    assert all(torch.equal(float_state(module, bits(4))[name], value) for name, value in other.items())
    with pytest.raises(QPatchBenchError, match="1 tensors are missing, first \\['head.bias'\\]"):
        load_float_state(module, {name: value for name, value in other.items() if name != "head.bias"})


def test_recalibrated_statistics_are_those_of_the_quantized_path(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 2)
    seen: list[torch.Tensor] = []
    norm = module.norm
    assert isinstance(norm, SwitchableBatchNorm)
    before = copy.deepcopy(module.state_dict())
    recalibrate_batch_norm(module, bits(2), images)
    norm.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0]))
    mine: nn.BatchNorm2d = norm.at_bits["2"]  # type: ignore[assignment]  # what it wraps
    first: nn.BatchNorm2d = module.stem[1].at_bits["2"]  # type: ignore[index, union-attr]  # as above
    set_bits(module, bits(2))
    for wrapped in (mine, first):
        wrapped.train()
        wrapped.momentum = 0.0
    module(images)
    assert mine.running_mean is not None
    assert mine.running_var is not None
    assert torch.allclose(mine.running_mean, seen[0].mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(mine.running_var, seen[0].var((0, 2, 3)), rtol=1e-4)
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(".at_bits.2." in name for name in changed)


def test_errors_say_what_is_missing(build: Callable[[], nn.Module], switchable: Make, images: torch.Tensor) -> None:
    settings = Qat(name="qat", bits=(FLOAT,))
    with pytest.raises(QPatchBenchError, match="no quantizers for 3 bits. Available: 32, 4, w4a8"):
        set_bits(switchable(32, 4, "w4a8"), bits(3))
    with pytest.raises(QPatchBenchError, match="Available: none: the network is not prepared"):
        set_bits(build(), bits(8))
    with pytest.raises(QPatchBenchError, match="expected the fields scale, first_last and batch_norm"):
        prepare(build(), (FLOAT,), Ptq(name="ptq", bits=(FLOAT,)))
    with pytest.raises(QPatchBenchError, match="found a network that is prepared already"):
        prepare(switchable(8), (FLOAT,), settings)
    with pytest.raises(QPatchBenchError, match="found none"):
        prepare(nn.Sequential(nn.ReLU()), (FLOAT,), settings)
    module = build()
    prepare(module, (bits(8), bits(4)), settings)
    set_bits(module, bits(4))
    # Not the raw weight, which is what an AttributeError inside a property of a torch module would give.
    with pytest.raises(QPatchBenchError, match="has no scale. Expected initialize"):
        _ = module.conv.weight  # type: ignore[union-attr]  # a toy network's layer
    with pytest.raises(QPatchBenchError, match="3 of 3 layers never ran on the calibration images, first 'stem.0'"):
        initialize(module, images[:0])


def test_layers_that_read_their_own_weight_are_quantized(images: torch.Tensor) -> None:
    from timm.layers.conv2d_same import Conv2dSame

    module = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU(), Conv2dSame(4, 4, 3, stride=2))
    prepare(module, (FLOAT, bits(2)), Qat(name="qat", bits=(FLOAT,)))
    initialize(module, images)
    set_bits(module, bits(2))
    layer = module[2]
    assert isinstance(layer, Conv2dSame)
    assert max(len(row.unique()) for row in layer.weight) <= 3
    unit = torch.zeros(1, 4, 8, 8)
    unit[0, 0, 4, 4] = 1000.0  # clipped to the largest code
    response = layer(unit) - layer(torch.zeros(1, 4, 8, 8))
    assert len(response[0, 0].unique()) <= 3


def test_a_fresh_network_is_initialised_as_training_will_see_it(images: torch.Tensor) -> None:
    """Placeholder statistics would leave the second layer's inputs 100 times larger than training makes them."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        module[0].weight.mul_(100)  # type: ignore[operator]  # a convolution
    reference = copy.deepcopy(module)
    inputs = reference[:3](images)
    prepare(module, (FLOAT, bits(8)), Qat(name="qat", bits=(FLOAT,)))
    initialize(module, images)
    found = module[3].activation_quantizer.scale_at(bits(8))  # type: ignore[union-attr, operator]  # quantized
    assert torch.allclose(found, max_scale(inputs, 255), rtol=0.01)
    norm = float_state(module, bits(8))
    assert norm["1.running_mean"].tolist() == [0.0] * 4
    assert norm["1.running_var"].tolist() == [1.0] * 4
    assert int(norm["1.num_batches_tracked"]) == 0
