from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.fp import Fp
from qpatchbench.quantizers.frozen.surrogate_gradients import with_scale_gradients
from qpatchbench.quantizers.inspection.audit_layers import audit, unquantized_operations
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.batch_norm_statistics import active_batch_norms, estimate_statistics
from qpatchbench.quantizers.trained.switchable import float_part, initialize, prepare, set_bits
from qpatchbench.registry import QUANTIZERS
from qpatchbench.types import FLOAT, Bits, Network

Build = Callable[[], nn.Module]
FOUR, EIGHT, MIXED = Bits(4, 4), Bits(8, 8), Bits(4, 8)


def quantizer(name: str, *bits: Bits, **fields: object) -> Quantizer:
    made: Quantizer = create(QUANTIZERS, {"name": name, "bits": bits or (FLOAT,), **fields})
    return made


def float_checkpoint(build: Build) -> Checkpoint:
    return Checkpoint(build, build().state_dict(), None, (FLOAT,))


def trained_checkpoint(build: Build, images: torch.Tensor, *bits: Bits, **fields: Any) -> Checkpoint:  # noqa: ANN401
    qat = quantizer("qat", *bits, **fields)
    module = build()
    estimate_statistics(module, active_batch_norms(module), [images])  # as training would have left them
    prepare(module, bits, qat)
    initialize(module, images)
    return Checkpoint(build, module.state_dict(), qat, bits)


def cifar(name: str) -> nn.Module:
    from qpatchbench.models.cifar import CifarModel

    return CifarModel.model_validate({"name": name}).build(10, 32)


def efficientnet() -> nn.Module:
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    return network


def vision_transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    network: nn.Module = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10
    )
    return network


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    network: nn.Module = SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=10
    )
    return network


ARCHITECTURES: dict[str, Build] = {
    "resnet20": lambda: cifar("resnet20"),
    "vgg16": lambda: cifar("vgg16"),
    "alexnet": lambda: cifar("alexnet"),
    "tf_efficientnet_lite0": efficientnet,
    "vit": vision_transformer,
    "swin": swin,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_quantizer_deploys_every_architecture(architecture: str) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build = ARCHITECTURES[architecture]
        checkpoint = trained_checkpoint(build, images, FLOAT, FOUR)
    fp = quantizer("fp").deploy(checkpoint, FLOAT, images)
    expected = fp(images)
    assert expected.shape == (3, 10)
    for name in ("qat", "ptq", "dynamic"):
        network = quantizer(name, FOUR).deploy(checkpoint, FOUR, images)
        output = network(images)
        assert bool(output.isfinite().all())
        assert not torch.equal(output, expected)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        rows = audit(network, images)
        assert len(rows) == sum(isinstance(part, nn.Conv2d | nn.Linear) for part in network.modules())
        assert all(row.weight_levels is not None and row.weight_levels <= 15 for row in rows)
        assert [row.activation_levels is None for row in rows] == [True] + [False] * (len(rows) - 1)
        assert all((row.activation_levels or 0) <= (15 if row.signed else 16) for row in rows)
        assert unquantized_operations(network) == ()
        # An attack needs the gradient with respect to the images.
        asked = images.clone().requires_grad_()
        gradient = torch.autograd.grad(network(asked).square().sum(), asked)[0]
        assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize("kind", ["float", "trained"])
def test_32_bits_of_every_quantizer_is_fp_bit_for_bit(build: Build, images: torch.Tensor, kind: str) -> None:
    checkpoint = float_checkpoint(build) if kind == "float" else trained_checkpoint(build, images, FLOAT, FOUR)
    expected = quantizer("fp").deploy(checkpoint, FLOAT, images)(images)
    reference = build()
    reference.load_state_dict(checkpoint.state if kind == "float" else float_part(checkpoint.state))
    assert torch.allclose(expected, reference.eval()(images), atol=1e-5)
    for name in ("qat", "ptq", "dynamic"):
        network = quantizer(name, FLOAT).deploy(checkpoint, FLOAT, images)
        assert torch.equal(network(images), expected)


@pytest.mark.numerical
@pytest.mark.parametrize("bits", [FOUR, EIGHT, MIXED])
def test_qat_deploys_what_was_trained(build: Build, images: torch.Tensor, bits: Bits) -> None:
    checkpoint = trained_checkpoint(build, images, FLOAT, FOUR, EIGHT, MIXED, first_last="eight")
    # The quantizer that deploys may list fewer bits; how scales work is the checkpoint's business.
    network = quantizer("qat", bits).deploy(checkpoint, bits, images)
    reference = build()
    assert checkpoint.quantizer is not None
    prepare(reference, checkpoint.bits, checkpoint.quantizer)
    reference.load_state_dict(checkpoint.state)
    reference.eval()
    set_bits(reference, bits)
    expected = reference(images).detach()
    assert torch.equal(network(images).argmax(1), expected.argmax(1))
    assert float((network(images) - expected).abs().max()) <= 5e-3 * float(expected.abs().max())


def test_deployment_leaves_the_checkpoint_alone(build: Build, images: torch.Tensor) -> None:
    for checkpoint in (float_checkpoint(build), trained_checkpoint(build, images, FLOAT, FOUR)):
        before = {name: value.clone() for name, value in checkpoint.state.items()}
        for name in ("qat", "ptq", "dynamic"):
            if name != "qat" or checkpoint.quantizer is not None:
                quantizer(name, FOUR).deploy(checkpoint, FOUR, images)
        assert all(torch.equal(value, before[name]) for name, value in checkpoint.state.items())


class Chain(nn.Module):
    """Two 1x1 convolutions whose arithmetic fits on a postcard."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.second = nn.Conv2d(1, 2, 1)
        nn.init.ones_(self.first.weight)
        with torch.no_grad():
            self.second.weight.copy_(torch.tensor([0.9, -0.1])[:, None, None, None])
            self.second.bias.copy_(torch.tensor([0.0, 0.25]))  # type: ignore[union-attr]  # it has a bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.second(self.first(images[:, :1]).relu()).sum((2, 3))
        return logits


def ramp(*pixels: float) -> torch.Tensor:
    return torch.tensor(pixels).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def test_minmax_by_hand() -> None:
    checkpoint = Checkpoint(Chain, Chain().state_dict(), None, (FLOAT,))
    network = Ptq(name="ptq", bits=(Bits(2, 2),)).deploy(checkpoint, Bits(2, 2), ramp(0.3, 0.6, 0.15))
    # Activations unsigned, range 0.6: scale 0.2; each weight is the largest of its channel, hence exact.
    for pixel, rounded in ((0.0, 0.0), (0.09, 0.0), (0.11, 0.2), (0.31, 0.4), (0.55, 0.6), (1.0, 0.6)):
        expected = torch.tensor([[0.9 * rounded, -0.1 * rounded + 0.25]])
        assert torch.allclose(network(ramp(pixel)), expected), pixel


def test_percentile_clips_outliers_and_averages_batches() -> None:
    pixels = torch.linspace(0.001, 0.1, 100).tolist()
    pixels[50] = 1.0
    ranges = {}
    for calibration in ("minmax", "percentile"):
        ptq = quantizer("ptq", EIGHT, calibration=calibration, percentile=99.0, batch_size=50)
        network = ptq.deploy(Checkpoint(Chain, Chain().state_dict(), None, (FLOAT,)), EIGHT, ramp(*pixels))
        ranges[calibration] = float(network.second.activation_quantizer.scale) * 255  # type: ignore[union-attr, arg-type]  # frozen
    # 99 % of 50 values is rank 50, the largest; with the outlier in the second batch the mean is (0.05 + 1) / 2.
    assert ranges == {"minmax": pytest.approx(1.0), "percentile": pytest.approx(0.525)}
    ptq = quantizer("ptq", EIGHT, calibration="percentile", percentile=99.0, batch_size=100)
    network = ptq.deploy(Checkpoint(Chain, Chain().state_dict(), None, (FLOAT,)), EIGHT, ramp(*pixels))
    found = float(network.second.activation_quantizer.scale) * 255  # type: ignore[union-attr, arg-type]  # frozen
    assert found == pytest.approx(sorted(pixels)[math.ceil(0.99 * 100) - 1])


@pytest.mark.numerical
def test_dynamic_answers_an_image_alone_as_in_a_batch(build: Build, images: torch.Tensor) -> None:
    network = Dynamic(name="dynamic", bits=(FOUR,)).deploy(float_checkpoint(build), FOUR, images)
    scaled = images * torch.linspace(0.1, 1, len(images)).view(-1, 1, 1, 1)
    together = network(scaled)
    alone = torch.cat([network(image) for image in scaled.split(1)])  # type: ignore[no-untyped-call]  # torch's stub
    assert torch.allclose(together, alone, atol=1e-6)
    static = quantizer("ptq", FOUR).deploy(float_checkpoint(build), FOUR, images)
    assert not torch.allclose(static(scaled), together)


def test_dynamic_by_hand() -> None:
    checkpoint = Checkpoint(Chain, Chain().state_dict(), None, (FLOAT,))
    network = Dynamic(name="dynamic", bits=(Bits(2, 2),)).deploy(checkpoint, Bits(2, 2), ramp(0.5))
    image = torch.tensor([0.9, 0.5, 0.2, 0.1]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    rounded = torch.tensor([0.9, 0.6, 0.3, 0.0]).sum()  # scale 0.9 / 3
    assert torch.allclose(network(image), torch.stack([0.9 * rounded, 4 * 0.25 - 0.1 * rounded])[None])


def test_gradients_through_run_time_scales_change_no_answer_and_stay_off_otherwise(
    build: Build, images: torch.Tensor
) -> None:
    def gradient(network: Network) -> torch.Tensor:
        inputs = images.clone().requires_grad_()
        return torch.autograd.grad(network(inputs).square().sum(), inputs)[0]

    network = Dynamic(name="dynamic", bits=(FOUR,)).deploy(float_checkpoint(build), FOUR, images)
    own, followed = gradient(network), gradient(with_scale_gradients(network, network))
    assert torch.equal(with_scale_gradients(network, network)(images), network(images))
    assert not torch.allclose(followed, own)
    assert bool(followed.isfinite().all())
    assert torch.equal(gradient(network), own)
    static = quantizer("ptq", FOUR).deploy(float_checkpoint(build), FOUR, images)
    assert torch.equal(gradient(with_scale_gradients(static, static)), gradient(static))


def test_errors_name_what_is_available(build: Build, images: torch.Tensor) -> None:
    without_float = trained_checkpoint(build, images, FOUR, EIGHT)
    with pytest.raises(QPatchBenchError, match="not trained at w4a8 bits. Available: 4, 8"):
        quantizer("qat", MIXED).deploy(without_float, MIXED, images)
    with pytest.raises(QPatchBenchError, match="not trained at 32 bits. Available: 4, 8"):
        quantizer("qat").deploy(without_float, FLOAT, images)
    for name in ("ptq", "dynamic"):
        with pytest.raises(QPatchBenchError, match="trained at 4, 8 bits only; expected 32 among them"):
            quantizer(name, FOUR).deploy(without_float, FOUR, images)
    with pytest.raises(QPatchBenchError, match="needs trained quantizers, found a float checkpoint"):
        quantizer("qat", FOUR).deploy(float_checkpoint(build), FOUR, images)
    for name, mode in (("ptq", "ptq-minmax"), ("dynamic", "dynamic")):
        with pytest.raises(QPatchBenchError, match=f"{mode} calibrates .* there are none"):
            quantizer(name, FOUR).deploy(float_checkpoint(build), FOUR, images[:0])
    shared = Checkpoint(build, without_float.state, quantizer("qat", batch_norm="shared"), without_float.bits)
    with pytest.raises(QPatchBenchError, match="does not fit its architecture and quantizer"):
        quantizer("qat", FOUR).deploy(shared, FOUR, images)
    with pytest.raises(ValidationError, match="expected 32, the only width of fp, found 8"):
        Fp(name="fp", bits=(FLOAT, EIGHT))


def test_modes_are_the_values_of_the_quantization_column() -> None:
    assert quantizer("ptq", FOUR).mode == "ptq-minmax"
    assert quantizer("ptq", FOUR, calibration="percentile").mode == "ptq-percentile"
    assert quantizer("ptq", FOUR, label="mine").mode == "mine"
    assert [quantizer(name).mode for name in ("fp", "qat", "dynamic")] == ["fp", "qat", "dynamic"]
    assert [name for name in QUANTIZERS.entries if QUANTIZERS.get(name).trained] == ["qat"]


def test_a_checkpoint_without_calibration_images_still_deploys(build: Build, images: torch.Tensor) -> None:
    checkpoint = trained_checkpoint(build, images, FLOAT, FOUR)
    folded = quantizer("qat", FOUR).deploy(checkpoint, FOUR, images)
    plain = quantizer("qat", FOUR).deploy(checkpoint, FOUR, images[:0])
    assert any(isinstance(part, nn.BatchNorm2d) for part in plain.modules())
    assert torch.equal(plain(images).argmax(1), folded(images).argmax(1))


def test_fields_are_part_of_the_identity() -> None:
    assert Qat(name="qat", bits=(FOUR,)).identity() != Qat(name="qat", bits=(FOUR,), scale="lsq").identity()
