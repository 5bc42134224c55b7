"""CIFAR networks against the figures of their papers and against their own algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from qpatchbench.errors import WeightsError
from qpatchbench.models.alexnet_cifar import CifarAlexNet
from qpatchbench.models.cifar import CifarModel
from qpatchbench.models.resnet_cifar import BasicBlock, CifarResNet, Shortcut
from qpatchbench.models.vgg_cifar import CifarVgg


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_resnet_sizes_are_those_of_he_et_al_table_6(depth: int, millions: float) -> None:
    network = CifarResNet(depth, 10)
    assert round(count(network) / 1e6, 2) == millions
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth

    # Summed by hand: 3x3 convolutions of 16, 32, 64 channels, two numbers of BatchNorm per channel, the head.
    n = (depth - 2) // 6
    convolutions = 9 * (3 * 16 + 2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
    assert count(network) == convolutions + 2 * (16 + 2 * n * (16 + 32 + 64)) + 64 * 10 + 10


def test_a_wider_resnet_has_the_squared_convolutions_and_only_resnets_are_wider() -> None:
    # By hand: 3x3 convolutions of twice 16, 32, 64 channels, two numbers of BatchNorm per channel, the head.
    convolutions = 9 * (3 * 32 + 6 * 32**2 + 32 * 64 + 5 * 64**2 + 64 * 128 + 5 * 128**2)
    normalisation = 2 * (32 + 6 * (32 + 64 + 128))
    assert count(CifarModel(name="resnet20", width=2).build(10, 32)) == convolutions + normalisation + 128 * 10 + 10
    assert "width" not in CifarModel(name="resnet20", width=1).model_dump()  # keys of before stay
    assert CifarModel(name="resnet20", width=2).identity()["width"] == 2
    with pytest.raises(ValidationError, match="expected 1 for vgg16, found 2: only ResNets"):
        CifarModel(name="vgg16", width=2)


def test_vgg_and_alexnet_have_the_customary_sizes() -> None:
    with torch.device("meta"):
        assert round(count(CifarVgg(16, 10)) / 1e6, 2) == 14.72
        assert round(count(CifarVgg(19, 10)) / 1e6, 2) == 20.04
        assert round(count(CifarAlexNet(10)) / 1e6, 2) == 2.47
        for depth in (16, 19):
            # Three linear layers of the paper became one: depth - 3 convolutions.
            assert sum(isinstance(module, nn.Conv2d) for module in CifarVgg(depth, 10).modules()) == depth - 3


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("resnet20", (8, 13, 32, 64)), ("vgg16", (16, 28, 32, 64)), ("vgg19", (16,)), ("alexnet", (8, 16, 28, 64))],
)
def test_sizes_other_than_cifar_work(name: str, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        network = CifarModel(name=name).build(5, size).eval()
        with torch.no_grad():
            logits = network(torch.rand(2, 3, size, size))
        assert logits.shape == (2, 5)
        assert bool(logits.isfinite().all())
        assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("size", [8, 9])
def test_option_a_shortcut_subsamples_and_adds_zero_channels(size: int) -> None:
    features = np.random.default_rng(0).normal(size=(2, 4, size, size)).astype(np.float32)
    expected = np.zeros((2, 8, math.ceil(size / 2), math.ceil(size / 2)), np.float32)
    expected[:, 2:6] = features[:, :, ::2, ::2]
    shortcut = Shortcut(4, 8, 2)
    assert count(shortcut) == 0
    np.testing.assert_array_equal(shortcut(torch.from_numpy(features)).numpy(), expected)


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (8, 2)])
def test_a_block_whose_residual_is_zero_is_its_shortcut(out_channels: int, stride: int) -> None:
    block = BasicBlock(4, out_channels, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    features = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(features), block.shortcut(features).clamp(min=0), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "alexnet"])
def test_initialisation_has_the_variance_of_he_et_al_2015(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CifarModel(name=name).build(10, 32)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "alexnet"])
def test_the_gradient_of_the_input_gradient_reaches_every_weight_matrix(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CifarModel(name=name).build(10, 32).eval()
        images = torch.rand(2, 3, 32, 32, requires_grad=True)
    loss = nn.functional.cross_entropy(network(images), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
    assert bool((gradient != 0).any())
    matrices = {path: parameter for path, parameter in network.named_parameters() if parameter.ndim > 1}
    seconds = torch.autograd.grad(gradient.square().sum(), list(matrices.values()))
    for path, second in zip(matrices, seconds, strict=True):
        assert float(second.abs().max()) > 0, path


def test_fields_are_checked_and_are_part_of_the_identity() -> None:
    with pytest.raises(ValidationError, match="resnet20"):
        CifarModel(name="resnet21")
    with pytest.raises(ValidationError, match="std"):
        CifarModel(name="vgg16", std=(0.0, 0.2, 0.2))
    identity = CifarModel(name="vgg16", mean=(0.5, 0.5, 0.5)).identity()
    assert identity["mean"] == [0.5, 0.5, 0.5]
    assert identity != CifarModel(name="vgg16").identity()


def test_impossible_depths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6n \+ 2.*found 21"):
        CifarResNet(21, 10)
    with pytest.raises(ValueError, match="16 or 19, found 11"):
        CifarVgg(11, 10)


def test_pretrained_says_what_is_possible() -> None:
    with pytest.raises(WeightsError, match="'resnet20'.*no published weights.*Expected train, a file"):
        CifarModel(name="resnet20", weights="pretrained").load(10, 32)
