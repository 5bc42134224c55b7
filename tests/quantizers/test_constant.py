"""A network under training while its parameters are constants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.constant import absorbable, constant
from qpatchbench.quantizers.trained.layers import SwitchableBatchNorm
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits

Make = Callable[..., nn.Module]

WIDTHS = tuple(Bits.parse(width) for width in (32, 8, 4))


class Fresh(nn.Module):
    """A convolution that is also read past its BatchNorm, one that is not, and BatchNorms that change nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.other, self.other_norm = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 4)."""
        features = self.conv(images)
        features = self.norm(features) + features
        logits: torch.Tensor = self.other_norm(self.other(features)).mean((2, 3))
        return logits


def prepared(module: nn.Module, images: torch.Tensor, **fields: object) -> nn.Module:
    """The network at three widths that share weights."""
    prepare(module, WIDTHS, Qat(name="qat", bits=WIDTHS, **fields))
    initialize(module, images)
    return module


@pytest.mark.parametrize("width", [32, 8, 5, 4])
def test_absorbed_norms_change_answers_and_gradients_by_rounding_only(
    switchable: Make, images: torch.Tensor, width: int
) -> None:
    module = switchable(32, 8, 5, 4)
    set_bits(module, Bits(width, width))
    absorbed = absorbable(module, images[:1])
    assert absorbed == (("stem.0", "stem.1"), ("conv", "norm"))
    answers = []
    for pairs in ((), absorbed):
        inputs = images.clone().requires_grad_()
        with constant(module, pairs):
            logits = module(inputs)
            answers.append((logits.detach(), torch.autograd.grad(logits[:, 0].sum(), inputs)[0]))
    (plain, slope), (folded, folded_slope) = answers
    assert float((folded - plain).abs().median()) <= 1e-4 * float(plain.abs().max())
    assert float((folded_slope - slope).abs().median()) <= 1e-3 * float(slope.abs().max())
    assert torch.equal(module(images), plain), "afterwards everything is as before"


def test_norms_run_no_more_and_every_width_has_its_own(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 4)
    norms = [part for part in module.modules() if isinstance(part, SwitchableBatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.at_bits["4"].get_parameter("weight").mul_(2)
    absorbed = absorbable(module, images)
    each = [own for norm in norms for own in norm.at_bits.values()]
    ran: list[nn.Module] = []
    for own in each:
        own.register_forward_hook(lambda part, arguments, output: ran.append(part))
    expected = {}
    for bits in (FLOAT, Bits(4, 4)):
        set_bits(module, bits)
        expected[bits] = module(images)
    assert len(ran) == 2 * len(norms)
    ran.clear()
    with constant(module, absorbed):
        for bits in (FLOAT, Bits(4, 4), FLOAT):
            set_bits(module, bits)
            difference = (module(images) - expected[bits]).abs().median()
            assert float(difference.detach()) <= 1e-4 * float(expected[bits].detach().abs().max())
    assert not ran


def test_a_convolution_that_is_read_past_its_norm_absorbs_none(images: torch.Tensor) -> None:
    module = prepared(Fresh(), images)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert absorbable(module, images) == (("other", "other_norm"),), "although both norms change nothing yet"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_activations_inside_a_norm_still_run(images: torch.Tensor) -> None:
    from timm.layers.norm_act import BatchNormAct2d

    class Net(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = super().forward(images)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return features.mean((2, 3))

    norm = BatchNormAct2d(4, act_layer=nn.SiLU)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    module = prepared(Net(nn.Conv2d(3, 4, 3), norm), images).eval()
    absorbed = absorbable(module, images)
    assert absorbed == (("0", "1"),)
    set_bits(module, FLOAT)
    expected = module(images)
    with constant(module, absorbed):
        assert torch.allclose(module(images), expected, atol=1e-5)


def test_without_an_image_or_a_norm_per_width_nothing_is_absorbed(images: torch.Tensor) -> None:
    assert absorbable(prepared(Fresh(), images), images[:0]) == ()
    assert absorbable(prepared(Fresh(), images, batch_norm="shared"), images) == ()


def test_an_error_inside_leaves_nothing_held(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 4)
    expected, absorbed = module(images), absorbable(module, images)
    with pytest.raises(RuntimeError, match="expected input"), constant(module, absorbed):
        module(images[:, :1])
    assert torch.equal(module(images), expected)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_an_attack_sees_the_weights_of_its_own_step(images: torch.Tensor) -> None:
    module = prepared(Fresh(), images)
    network = Switch(module, module, quantized=True, example=images[:1])
    answers = []
    for _ in range(2):
        with network.evaluating():
            answers.append(network.at(FLOAT)(images))
        with torch.no_grad():
            module.get_parameter("other.weight").mul_(2)
    assert torch.allclose(answers[1], 2 * answers[0], rtol=1e-4, atol=1e-5)
