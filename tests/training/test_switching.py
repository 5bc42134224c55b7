"""A network under training as a defense sees it."""

from __future__ import annotations

import pytest
import torch

from qpatchbench import types
from qpatchbench.defenses import base
from qpatchbench.errors import QPatchBenchError, TrainingError
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits
from tests.training.conftest import SIDE, TinyNet

FOUR = Bits(4, 4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def module(quantizer: Qat, images: torch.Tensor) -> TinyNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TinyNet()
    prepare(module, quantizer.bits, quantizer)
    initialize(module, images)
    return module.eval()


def test_it_is_what_defenses_ask_for(module: TinyNet) -> None:
    network: base.SwitchableNetwork = Switch(module, module, quantized=True)
    assert network.at(FLOAT) is module
    assert base.Observed is types.Observed, "one class, whichever package names it"


def test_every_width_answers_with_its_own_weights(module: TinyNet, quantizer: Qat, images: torch.Tensor) -> None:
    network = Switch(module, module, quantized=True)
    first = {bits: network.at(bits)(images) for bits in quantizer.bits}
    assert len({tuple(logits.flatten().tolist()) for logits in first.values()}) == len(quantizer.bits)
    for bits in reversed(quantizer.bits):
        assert torch.equal(network.at(bits)(images), first[bits])


def test_a_float_network_has_one_width(images: torch.Tensor) -> None:
    module = TinyNet().eval()
    network = Switch(module, module, quantized=False)
    assert torch.equal(network.at(FLOAT)(images), module(images))
    with pytest.raises(TrainingError, match="a float network has no quantizers for 4 bits"):
        network.at(FOUR)
    with pytest.raises(TrainingError, match="a float network has no quantizers for w4a32 bits"):
        network.observed(Bits(4, 32), images, ())


def test_a_width_that_was_not_prepared_is_refused(module: TinyNet) -> None:
    with pytest.raises(QPatchBenchError, match=r"no quantizers for 2 bits\. Available: 32, 8, 4"):
        Switch(module, module, quantized=True).at(Bits(2, 2))


def test_features_are_those_of_the_width_asked_for(module: TinyNet, images: torch.Tensor) -> None:
    network = Switch(module, lambda pixels: 2 * module(pixels), quantized=True)
    network.at(FLOAT)
    logits, features = network.observed(FOUR, images, ("conv",))
    assert torch.equal(logits, 2 * module(images)), "the width stays, and what ran is the wrapped forward"
    assert len(torch.unique(features["conv"])) <= 16
    quantizer = module.get_submodule("next.activation_quantizer")
    handed = torch.relu(module.norm(module.conv(images)))
    assert torch.equal(features["conv"], quantizer(handed))
    float_features = network.observed(FLOAT, images, ("conv",)).features["conv"]
    assert len(torch.unique(float_features)) > 16
    assert torch.equal(network.at(FOUR)(images), logits), "looking changes nothing"


def test_early_layers_are_the_same_at_every_width(module: TinyNet, images: torch.Tensor) -> None:
    network = Switch(module, module, quantized=True)
    network.at(FOUR)
    before = network.at(FOUR)(images)
    assert network.early_layers(images) == ("conv",), "the other convolution is read by a linear layer"
    assert torch.equal(module(images), before), "the active width stays"
    assert Switch(TinyNet(), lambda pixels: pixels, quantized=False).early_layers(images) == ("conv",)


def test_looking_for_layers_leaves_training_alone(module: TinyNet, images: torch.Tensor) -> None:
    module.train()
    network = Switch(module, module, quantized=True)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = torch.get_rng_state()
    network.early_layers(images)
    assert module.training
    assert module.norm.training
    assert torch.equal(torch.get_rng_state(), before), "dropout draws nothing"
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_observing_a_training_step_trains(module: TinyNet, images: torch.Tensor) -> None:
    module.train()
    network = Switch(module, module, quantized=True)
    logits, features = network.observed(FOUR, images, ("conv",))
    weight = module.conv._parameters["weight"]
    assert weight is not None
    for seen in (logits, features["conv"]):
        (gradient,) = torch.autograd.grad(seen.square().sum(), weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_evaluating_holds_statistics_and_ends(module: TinyNet, images: torch.Tensor) -> None:
    module.train()
    network = Switch(module, module, quantized=True)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    with network.evaluating():
        assert not any(part.training for part in module.modules())
        network.at(FOUR)(images)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
