from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.frozen.folding import fold_batch_norm
from qpatchbench.quantizers.frozen.network import freeze, settle
from qpatchbench.quantizers.inspection.audit_layers import audit, effective_bits, unquantized_operations
from qpatchbench.quantizers.trained.switchable import set_bits
from qpatchbench.types import Bits

Make = Callable[..., nn.Module]


@pytest.mark.parametrize("mode", ["paper", "ema", "mse", "lsq"])
@pytest.mark.parametrize("width", [8, 5, 4, 2, "w4a8", "w4a32", "w32a4"])
def test_freezing_changes_no_bit_of_the_answer(
    switchable: Make, images: torch.Tensor, width: object, mode: str
) -> None:
    module = switchable(32, width, scale=mode)
    set_bits(module, Bits.parse(width))
    expected = module(images)
    module.train()  # freezing puts it into eval mode
    freeze(module)
    assert torch.equal(module(images), expected)
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any("at_bits" in name or "weight_quantizer" in name for name in module.state_dict())


@pytest.mark.numerical
@pytest.mark.parametrize("width", [8, 4, "w4a8"])
def test_folding_keeps_predictions_and_codes(switchable: Make, images: torch.Tensor, width: object) -> None:
    module = switchable(32, width)
    set_bits(module, Bits.parse(width))
    freeze(module)
    expected, codes = module(images), _codes(module)
    assert fold_batch_norm(module, images[:1]) == 2
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    folded = module(images)
    assert torch.equal(folded.argmax(1), expected.argmax(1))
    # Rounding differs in the last bit, which may carry single activations over a rounding boundary.
    assert float((folded - expected).abs().max()) <= 5e-3 * float(expected.abs().max())
    assert float((folded - expected).abs().median()) <= 1e-4 * float(expected.abs().max())
    assert all(torch.equal(found, before) for found, before in zip(_codes(module), codes, strict=True))


def _codes(module: nn.Module) -> list[torch.Tensor]:
    """Weight codes up to the sign of the channel's factor: ranks of distinct values."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    return [torch.stack([torch.unique(row, return_inverse=True)[1] for row in weight]) for weight in weights]


@pytest.mark.numerical
def test_folding_a_float_network_is_exact_to_rounding(build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    module = build()
    settle(module)
    expected = module(images)
    assert fold_batch_norm(module, images) == 2
    assert float((module(images) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_convolution_that_is_read_elsewhere_is_not_folded(images: torch.Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.other, self.other_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.conv(images)
            features = self.norm(features) * features
            logits: torch.Tensor = self.other_norm(self.other(features)).mean((2, 3))
            return logits

    module = Twice()
    for norm in (module.norm, module.other_norm):
        nn.init.constant_(norm.weight, 3.0)
        nn.init.constant_(norm.bias, 1.0)
    settle(module)
    expected, before = module(images), copy.deepcopy(module.conv.state_dict())
    assert fold_batch_norm(module, images) == 1
    assert isinstance(module.norm, nn.BatchNorm2d)
    assert torch.equal(module.conv.weight, before["weight"])
    assert isinstance(module.other_norm, nn.Identity)
    assert float((module(images) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_batch_norm_with_an_activation_keeps_it(images: torch.Tensor) -> None:
    from timm.layers.norm_act import BatchNormAct2d

    norm = BatchNormAct2d(4, act_layer=nn.SiLU)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    settle(module)
    expected = module(images)
    assert fold_batch_norm(module, images[:1]) == 1
    assert isinstance(module[1], nn.SiLU)
    assert torch.allclose(module(images), expected, atol=1e-5)


def test_batch_norm_before_a_convolution_stays(images: torch.Tensor) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))
    settle(module)
    assert fold_batch_norm(module, images[:1]) == 0
    assert isinstance(module[0], nn.BatchNorm2d)


@pytest.mark.parametrize("width", [2, 4, 5, 8])
def test_audit_counts_no_more_levels_than_bits_allow(switchable: Make, images: torch.Tensor, width: int) -> None:
    module = switchable(width, scale="ema")
    set_bits(module, Bits(width, width))
    freeze(module)
    fold_batch_norm(module, images[:1])
    rows = audit(module, images)
    assert [row.name for row in rows] == ["stem.0", "conv", "head"]
    for row in rows:
        assert row.weight_bits == width
        assert row.weight_levels is not None
        assert row.weight_levels <= 2**width - 1
    assert [row.activation_bits for row in rows] == [8, width, width]
    assert rows[0].activation_levels is None
    assert all(row.activation_levels is not None and row.activation_levels <= 2**width for row in rows[1:])
    # At few bits the levels are also used.
    assert width > 4 or (rows[1].weight_levels, (rows[1].activation_levels or 0) >= 2**width - 1) == (
        2**width - 1,
        True,
    )
    assert unquantized_operations(module) == ()
    assert [row.multiplications for row in rows] == [100 * 8 * 27, 100 * 8 * 72, 40]
    macs = 100 * 8 * (27 + 72) + 40
    expected = (8 * 100 * 8 * 27 + width * (100 * 8 * 72 + 40)) / macs
    assert tuple(effective_bits(rows)) == pytest.approx((width, expected))


def test_audit_names_what_runs_in_float(switchable: Make, build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    module = switchable(32, "w32a4")
    set_bits(module, Bits(32, 4))
    freeze(module)
    assert unquantized_operations(module) == ("stem.0", "conv", "head")
    assert [row.weight_levels for row in audit(module, images)] == [None] * 3
    assert audit(build(), images) == ()


def test_run_time_scale_is_that_of_each_image() -> None:
    quantizer = FrozenActivation(4, signed=True, scale=None)
    inputs = torch.tensor([[7.0, 3.4, -7.0], [0.7, 0.34, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[7.0, 3.0, -7.0], [0.7, 0.3, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(quantizer(inputs), expected)
    assert torch.equal(quantizer(inputs[1:2]), quantizer(inputs)[1:2])


def test_a_frozen_network_can_be_copied_and_says_what_it_is(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 4)
    set_bits(module, Bits(4, 4))
    twin = copy.deepcopy(module)
    freeze(module)
    assert torch.equal(module(images), twin(images))
    assert torch.equal(copy.deepcopy(module)(images), module(images))
    assert "(activation_quantizer): FrozenActivation(32 bits)" in repr(module)
    assert "(activation_quantizer): FrozenActivation(4 bits, unsigned, scale 0." in repr(module)
