"""V15: honest quantized networks pass, networks that only claim a width fail, mean widths are those counted by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from qpatchbench.evaluation.checks.claimed_bits import bits_are_as_claimed
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.frozen.network import frozen_layers, settle
from qpatchbench.quantizers.inspection.audit_layers import LayerAudit, operations
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.runs.records import Check
from qpatchbench.types import FLOAT, Bits

FOUR, EIGHT = Bits(4, 4), Bits(8, 8)
# Multiply-accumulates of `small`: 3x3 convolutions 3 -> 8, 8 -> 16, 16 -> 16 on 8 x 8 pixels, and 16 -> 10.
FIRST, SECOND, THIRD, LAST = 64 * 8 * 27, 64 * 16 * 72, 64 * 16 * 144, 160
ALL = FIRST + SECOND + THIRD + LAST


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def build() -> Callable[[], nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small()
    settle(network)
    return lambda: copy.deepcopy(network)


@pytest.fixture
def deploy(build: Callable[[], nn.Module], images: torch.Tensor) -> Callable[[Quantizer, Bits], nn.Module]:
    """The small network under a quantizer; trained fake quantizers are initialized, not trained."""

    def deployed(quantizer: Quantizer, bits: Bits) -> nn.Module:
        if not quantizer.trained:
            return quantizer.deploy(Checkpoint(build, build().state_dict(), None, (FLOAT,)), bits, images)
        module = build()
        prepare(module, (FLOAT, bits), quantizer)
        initialize(module, images)
        return quantizer.deploy(Checkpoint(build, module.state_dict(), quantizer, (FLOAT, bits)), bits, images)

    return deployed


def check_of(network: nn.Module, images: torch.Tensor, *claimed: Bits) -> Check:
    return bits_are_as_claimed(operations(network, images), claimed)


def row(name: str, weight: int, activation: int, count: int, *, declares: bool = True) -> LayerAudit:
    levels = (None if weight == 32 else 2**weight - 1, None if activation == 32 else 2**activation - 1)
    return LayerAudit(name, weight, activation, *levels, signed=True, multiplications=count, declares=declares)


@pytest.mark.parametrize("bits", [Bits(2, 2), FOUR, EIGHT, Bits(4, 8)])
@pytest.mark.parametrize("kind", [Qat, Ptq, Dynamic])
def test_honest_networks_pass(
    deploy: Callable[[Quantizer, Bits], nn.Module], images: torch.Tensor, kind: type[Quantizer], bits: Bits
) -> None:
    check = check_of(deploy(kind(name=kind.__name__.lower(), bits=(bits,)), bits), images, bits)
    assert (check.id, check.verdict, check.message) == ("V15", "pass", "")
    assert check.figures["effective_weight_bits"] == pytest.approx(bits.weight)
    # The input of the first layer is the image, of 8 bits.
    expected = (8 * FIRST + bits.activation * (SECOND + THIRD + LAST)) / ALL
    assert check.figures["effective_activation_bits"] == pytest.approx(expected)
    assert check.figures["wider_share"] == 0
    assert check.figures["most_weight_levels"] <= 2**bits.weight - 1


@pytest.mark.parametrize(("first_last", "width"), [("eight", 8), ("float", 32)])
def test_wider_first_and_last_layers_are_declared_and_count_in_the_mean(
    deploy: Callable[[Quantizer, Bits], nn.Module], images: torch.Tensor, first_last: str, width: int
) -> None:
    quantizer = Qat.model_validate({"name": "qat", "bits": (FOUR,), "first_last": first_last})
    check = check_of(deploy(quantizer, FOUR), images, FOUR)
    assert check.verdict == "pass"
    expected = (width * (FIRST + LAST) + 4 * (SECOND + THIRD)) / ALL
    assert check.figures["effective_weight_bits"] == pytest.approx(expected)


def test_a_quantizer_that_returns_the_float_network_fails(build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    check = check_of(build(), images, FOUR)
    assert check.verdict == "fail"
    assert "100 % of the multiply-accumulates" in check.message
    assert "wider than the 4 bits of the row: 2, 4" in check.message
    # The 16 weights of each class cannot have more than 16 levels; all others are seen to be float.
    assert check.figures["effective_weight_bits"] == pytest.approx((32 * (ALL - LAST) + 4 * LAST) / ALL)


def test_a_network_deployed_at_other_bits_fails(
    deploy: Callable[[Quantizer, Bits], nn.Module], images: torch.Tensor
) -> None:
    network = deploy(Ptq(name="ptq", bits=(EIGHT,)), EIGHT)
    assert check_of(network, images, FOUR).verdict == "fail"
    assert check_of(network, images, EIGHT).verdict == "pass"


def test_weights_off_their_grid_fail_by_their_levels(
    deploy: Callable[[Quantizer, Bits], nn.Module], images: torch.Tensor
) -> None:
    network = deploy(Ptq(name="ptq", bits=(FOUR,)), FOUR)
    with torch.no_grad():
        for _, layer in frozen_layers(network):
            layer.stored_weight.add_(1e-3 * torch.randn(layer.stored_weight.shape))
    check = check_of(network, images, FOUR)
    assert check.verdict == "fail"
    assert check.message.startswith("0 has 27 weight levels at 4 bits; 2 has 72")


def test_activations_that_nobody_rounds_fail_by_their_levels(
    deploy: Callable[[Quantizer, Bits], nn.Module], images: torch.Tensor
) -> None:
    network = deploy(Ptq(name="ptq", bits=(FOUR,)), FOUR)
    for _, layer in frozen_layers(network):
        layer.activation_quantizer.forward = lambda inputs: inputs  # type: ignore[method-assign]
    check = check_of(network, images, FOUR)
    assert check.verdict == "fail"
    assert "activation levels at 4 bits" in check.message


def test_another_quantizers_own_layers_pass_by_their_levels(
    build: Callable[[], nn.Module], images: torch.Tensor
) -> None:
    """A quantizer from outside that rounds plain layers and declares nothing."""

    class Rounding(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return (inputs / 0.25).round().clamp(-7, 7) * 0.25

    def rounded(scale: float) -> nn.Module:
        network = build()
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, nn.Conv2d | nn.Linear):
                    part.weight.copy_((part.weight / scale).round().clamp(-7, 7) * scale)
        return network

    network = rounded(0.05)
    parts = [part for layer in network.children() for part in (Rounding(), layer)]
    check = check_of(nn.Sequential(*parts), images, FOUR)
    assert check.verdict == "pass"
    assert check.figures["effective_weight_bits"] == 4
    assert check_of(network, images, FOUR).verdict == "fail", "its activations are float"
    assert check_of(network, images, Bits(4, 32)).verdict == "pass", "which w4a32 says"


def test_some_layers_left_in_float_are_named() -> None:
    rows = [row("first", 8, 8, 10), row("a", 4, 4, 60), row("b", 32, 32, 40, declares=False), row("last", 8, 8, 10)]
    rows[2] = LayerAudit("b", 32, 32, 500, 900, True, 40, declares=False)
    check = bits_are_as_claimed(rows, [FOUR])
    assert check.verdict == "warn"
    assert check.message.startswith("not quantized: b; on average a multiplication has 14.0 bits of weight")
    assert check.figures["wider_share"] == pytest.approx(0.4)
    assert check.figures["effective_weight_bits"] == pytest.approx((8 * 20 + 4 * 60 + 32 * 40) / 120) == 14


def test_wider_shortcuts_that_a_quantizer_declares_pass() -> None:
    rows = [row("first", 32, 8, 10), row("a", 4, 4, 90), row("shortcut", 32, 32, 10), row("last", 32, 32, 1)]
    check = bits_are_as_claimed(rows, [FOUR])
    assert check.verdict == "pass"
    assert check.figures["wider_share"] == pytest.approx(0.1)


def test_members_of_an_ensemble_are_judged_by_the_widths_that_it_declares() -> None:
    rows: list[LayerAudit] = []
    for member, width in ((0, 4), (1, 32)):
        rows += [row(f"members.{member}.{name}", width, width, 10) for name in ("first", "a", "last")]
    assert bits_are_as_claimed(rows, [FOUR]).verdict == "pass", "half of it is not most of it"
    wide: Sequence[LayerAudit] = [*rows, *(row(f"members.2.{name}", 32, 32, 10) for name in ("first", "a", "last"))]
    assert bits_are_as_claimed(wide, [FOUR]).verdict == "fail"
    check = bits_are_as_claimed(wide, [FOUR, FLOAT])
    assert check.verdict == "pass"
    assert check.figures["effective_weight_bits"] == pytest.approx((4 + 32 + 32) / 3)


def test_without_anything_to_count_nothing_is_said(images: torch.Tensor) -> None:
    check = check_of(nn.Flatten(), images, FOUR)
    assert (check.verdict, check.message) == ("not-run", "nothing in the network multiplies by weights")
