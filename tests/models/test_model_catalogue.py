"""Every catalogue line builds a network that keeps the contract of `ModelSource.build`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from qpatchbench.models import CATALOGUE
from qpatchbench.models.base import ModelSource
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.registry import MODELS

# Those that a name alone describes: a network of one's own is in test_own_network, a deployed file in tests of its own.
NAMES = [
    name
    for name in CATALOGUE
    if "<" not in name and name != "deployed" and not getattr(MODELS.get(name), "trial", None)
]
CIFAR_NAMES = [name for name in NAMES if CATALOGUE[name].target.endswith("CifarModel")]


def source(name: str) -> ModelSource:
    component: ModelSource = MODELS.get(name)(name=name)
    return component


@pytest.mark.parametrize("name", NAMES)
def test_every_model_answers_finite_logits_and_has_second_order_attention(name: str) -> None:
    component = source(name)
    size = 32 if name in CIFAR_NAMES else 224
    network = component.build(7, size).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 3, size, size))
    assert logits.shape == (1, 7)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert not any(getattr(module, "fused_attn", False) for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())

    assert isinstance(network, ImageClassifier)
    wanted = component.preprocessing(size)
    config = getattr(network.backbone, "pretrained_cfg", None)
    if config is not None:
        assert (wanted.mean, wanted.std) == (config["mean"], config["std"])
        assert wanted.crop_fraction == config["crop_pct"]
        assert wanted.interpolation == config["interpolation"]
    torch.testing.assert_close(network.mean.flatten(), torch.tensor(wanted.mean))
    torch.testing.assert_close(network.std.flatten(), torch.tensor(wanted.std))


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_every_convolution_feeds_its_own_batch_norm_and_nothing_else(name: str) -> None:
    network = source(name).build(10, 32).eval()
    calls: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls.append((module, inputs[0], output))

    leaves = [module for module in network.modules() if not list(module.children())]
    for module in leaves:
        module.register_forward_hook(record)
    network(torch.rand(1, 3, 32, 32))

    convolutions = 0
    for (module, _, output), (following, entering, _) in zip(calls, calls[1:], strict=False):
        if isinstance(module, nn.Conv2d):
            convolutions += 1
            assert isinstance(following, nn.BatchNorm2d)
            assert entering is output
            assert sum(other is output for _, other, _ in calls) == 1
            assert module.bias is None
    assert convolutions == sum(isinstance(module, nn.Conv2d) for module in leaves)


def test_weights_come_from_the_global_generator_and_nothing_reseeds_it() -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = source(name).build(3, 32)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    with torch.random.fork_rng(devices=[]):
        for name in ("resnet20", "mobilenetv2_100"):
            first, again, other = weights(name, 0), weights(name, 0), weights(name, 1)
            assert torch.equal(first, again)
            assert not torch.equal(first, other)
            torch.manual_seed(0)
            assert not torch.equal(weights(name, 0), _second_build(name))


def _second_build(name: str) -> torch.Tensor:
    torch.manual_seed(0)
    source(name).build(3, 32)
    network = source(name).build(3, 32)
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


def test_a_misspelt_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Exception, match="Did you mean: resnet56"):
        MODELS.get("resnet_56")


def test_component_modules_use_nothing_of_torch_when_they_are_imported() -> None:
    script = """
import sys, types
class Deferred(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"torch.{name} was used at import")
sys.modules["torch"] = Deferred("torch")
import qpatchbench.models.cifar, qpatchbench.models.timm_models, qpatchbench.models.weights
assert not {"timm", "torchvision", "safetensors"} & set(sys.modules)
print(qpatchbench.models.cifar.CifarModel(name="resnet20"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resnet20" in done.stdout
