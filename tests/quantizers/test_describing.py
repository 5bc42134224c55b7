from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.inspection.rules import tensor_rules
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.types import FLOAT, Bits

Build = Callable[[], nn.Module]


def checkpoint(build: Build) -> Checkpoint:
    return Checkpoint(build, build().state_dict(), None, (FLOAT,))


def test_the_rule_of_every_tensor(build: Build, images: torch.Tensor) -> None:
    bits = Bits(4, 8)
    network = Ptq(name="ptq", bits=(bits,)).deploy(checkpoint(build), bits, images)
    rules = tensor_rules(network, images)
    assert [(rule.layer, rule.tensor) for rule in rules] == [
        (layer, tensor) for layer in ("stem.0", "conv", "head") for tensor in ("input", "weight")
    ]
    image, weight, inputs = rules[0], rules[1], rules[2]
    assert (image.bits, image.symmetric, image.levels, image.error) == (32, None, None, None)
    assert (weight.bits, weight.symmetric, weight.granularity) == (4, True, "output channel")
    assert weight.levels is not None
    assert 2 < weight.levels <= 15
    assert (inputs.bits, inputs.symmetric, inputs.granularity, inputs.low) == (8, False, "tensor", 0.0)
    assert all(rule.error is None or 0 < rule.error < (0.2 if rule.bits == 4 else 0.02) for rule in rules)
    # By hand: the range of minmax is the largest input.
    seen: list[torch.Tensor] = []
    plain = build().eval().requires_grad_(False)
    plain.conv.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0]))  # type: ignore[union-attr]
    plain(images)
    assert inputs.high == pytest.approx(float(seen[0].max()), rel=1e-5)


def test_a_scale_per_image_is_called_so_and_float_has_no_rule(build: Build, images: torch.Tensor) -> None:
    bits = Bits(4, 4)
    network = Dynamic(name="dynamic", bits=(bits,)).deploy(checkpoint(build), bits, images)
    assert {rule.granularity for rule in tensor_rules(network, images) if rule.tensor == "input"} == {"", "image"}
    assert tensor_rules(Ptq(name="ptq", bits=(FLOAT,)).deploy(checkpoint(build), FLOAT, images), images) == ()


def test_fewer_bits_have_larger_errors(build: Build, images: torch.Tensor) -> None:
    errors = []
    for width in (8, 5, 3):
        bits = Bits(width, width)
        rules = tensor_rules(Ptq(name="ptq", bits=(bits,)).deploy(checkpoint(build), bits, images), images)
        errors.append([rule.error for rule in rules if rule.error is not None])
    assert all(a < b < c for a, b, c in zip(*errors, strict=True))
