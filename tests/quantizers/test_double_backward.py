"""Penalties on input gradients differentiate twice; a path that loses the second gradient does so silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.types import FLOAT, Bits

Mode = Literal["ema", "mse", "lsq"]


def vision_transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=10, patch_size=5, embed_dim=12, depth=1, num_heads=2, num_classes=5)
    for part in network.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]  # fused attention has no second derivative
    return network


def penalised(module: nn.Module, images: torch.Tensor) -> None:
    """Backward of ||grad_x loss||^2."""
    images = images.clone().requires_grad_()
    labels = torch.arange(len(images)) % 5
    loss = nn.functional.cross_entropy(module(images), labels, reduction="sum")
    gradient = torch.autograd.grad(loss, images, create_graph=True)[0]
    torch.autograd.backward(gradient.square().sum())


@pytest.mark.parametrize("mode", ["ema", "mse", "lsq"])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("architecture", ["convolutional", "transformer"])
def test_every_parameter_gets_a_second_order_gradient(
    build: Callable[[], nn.Module], images: torch.Tensor, architecture: str, width: int, mode: Mode
) -> None:
    bits = Bits(width, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build() if architecture == "convolutional" else vision_transformer()
    prepare(module, (bits,), Qat(name="qat", bits=(bits,), scale=mode))
    initialize(module, images)
    module.train()
    set_bits(module, bits)
    penalised(module, images)
    # The last bias shifts logits and is always reached; nothing is left without a gradient.
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert all(bool(layer.raw_weight.grad.abs().sum() > 0) for layer in layers)  # type: ignore[union-attr, operator]  # quantized
    if mode == "lsq":
        scales = {name: p for name, p in module.named_parameters() if name.rpartition(".")[2].startswith("scale")}
        assert len(scales) == 2 * len(layers) - 1  # the image has no quantizer
        idle = [name for name, scale in scales.items() if scale.grad is not None and not scale.grad.abs().sum()]
        assert idle == []
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_second_order_gradient_at_32_bits_is_that_of_the_float_network(
    build: Callable[[], nn.Module], images: torch.Tensor
) -> None:
    reference, module = build(), build()
    prepare(module, (FLOAT, Bits(4, 4)), Qat(name="qat", bits=(FLOAT,)))
    initialize(module, images)
    set_bits(module, FLOAT)
    for network in (reference, module):
        penalised(network, images)
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    found = {
        name.replace(".at_bits.32", ""): parameter.grad
        for name, parameter in module.named_parameters()
        if ".at_bits.4" not in name and ".scale" not in name
    }
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        other = found[name]
        assert gradient is not None
        assert other is not None
        assert torch.equal(other, gradient)


@pytest.mark.numerical
def test_many_levels_approach_the_float_gradients(build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    """At 16 bits rounding is negligible, so first and second derivatives are nearly the float network's."""
    reference, module, bits = build().double().eval(), build(), Bits(16, 16)
    prepare(module, (bits,), Qat(name="qat", bits=(bits,), scale="ema"))
    initialize(module, images)
    module.double().eval()
    set_bits(module, bits)
    for network in (reference, module):
        penalised(network, images.double())
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    for name in ("stem.0.weight", "conv.weight", "head.weight"):
        found = dict(module.named_parameters())[name].grad
        assert found is not None
        cosine = nn.functional.cosine_similarity(found.flatten(), expected[name].flatten(), dim=0)
        assert float(cosine) > 0.99
