"""A network behind a preprocessor: its answers, its gradient, its draws, and what attacks follow instead."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.checks.artifacts import network_is_sound
from qpatchbench.ops.mean_prediction import log_mean_probability
from qpatchbench.preprocessors.base import DRAWS, Preprocessor
from qpatchbench.preprocessors.none import NoPreprocessor
from qpatchbench.preprocessors.preprocessed import PreprocessedNetwork, preprocessed
from qpatchbench.quantizers.frozen.members import RandomPrecisionNetwork
from qpatchbench.registry import PREPROCESSORS
from qpatchbench.testing.fixtures.oracles import best_patch, linear_network
from qpatchbench.types import Network, Randomized
from tests.preprocessors.shades import Blindfold, Centred, Depth, Jitter, State, Window

SIDE, CLASSES = 6, 4


def images(count: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def weight() -> torch.Tensor:
    return torch.randn(CLASSES, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1))


def bare() -> torch.nn.Module:
    return linear_network(weight()).requires_grad_(False)


def behind(preprocessor: Preprocessor, network: torch.nn.Module | None = None) -> PreprocessedNetwork:
    return preprocessed(network or bare(), preprocessor, preprocessor.fit(images(8, seed=2)))


def gradient(network: Network, seen: torch.Tensor) -> torch.Tensor:
    own = seen.clone().requires_grad_()
    return torch.autograd.grad(network(own)[:, 0].sum(), own)[0]


def random_network() -> RandomPrecisionNetwork:
    members = {str(bits): linear_network(torch.roll(weight(), bits, 0)).requires_grad_(False) for bits in (2, 3)}
    return RandomPrecisionNetwork(members, 0)


@pytest.mark.parametrize("preprocessor", [NoPreprocessor(name="none"), Window(name="window")])
def test_the_identity_changes_no_bit(preprocessor: Preprocessor) -> None:
    network = behind(preprocessor)
    assert torch.equal(network(images()), bare()(images()))
    assert torch.equal(gradient(network, images()), gradient(bare(), images()))
    assert not isinstance(network, Randomized)
    assert not hasattr(network, "expected"), "an attack follows the network itself"


def test_the_network_sees_what_the_preprocessor_returns() -> None:
    depth = Depth(name="depth", depth=2)
    assert torch.equal(behind(depth)(images()), bare()((images() * 3).round() / 3))


def test_without_a_gradient_attacks_follow_the_identity() -> None:
    raw = images().requires_grad_()
    depth = Depth(name="depth", depth=2)
    seen = depth.apply(raw, {}, torch.Generator())
    assert not torch.autograd.grad(bare()(seen).sum(), raw)[0].any(), "rounding has no gradient of its own"
    found = gradient(behind(depth), images())
    assert torch.equal(found, weight()[0].view(3, SIDE, SIDE).expand_as(found))


def test_a_differentiable_preprocessor_keeps_its_own_gradient() -> None:
    assert not gradient(behind(Blindfold(name="blindfold")), images()).any()
    found = gradient(behind(Centred(name="centred")), 0.4 + 0.2 * images())
    own = weight()[0].view(3, SIDE, SIDE)
    # What is taken from the mean of an image is taken from its gradient.
    torch.testing.assert_close(found, (own - own.mean(dim=(1, 2), keepdim=True)).expand_as(found))


def test_state_travels_with_the_network_and_counts_as_its_state() -> None:
    network = behind(Centred(name="centred"))
    mean = images(8, seed=2).mean(dim=(0, 2, 3))
    assert torch.equal(network.state_dict()["state0"], mean)
    seen = network.seen(0.5 + 0.01 * images(), torch.Generator())
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), mean)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_draws_follow_the_seed_and_go_on() -> None:
    network = behind(Jitter(name="jitter"))
    assert isinstance(network, Randomized)
    network.restart(3)
    first, second = network(images()), network(images())
    assert not torch.equal(first, second)
    network.restart(3)
    assert torch.equal(network(images()), first)
    network.restart(4)
    assert not torch.equal(network(images()), first)


@pytest.mark.numerical
def test_batches_do_not_matter_where_a_preprocessor_draws_image_by_image() -> None:
    network = behind(Jitter(name="jitter"))
    assert isinstance(network, Randomized)
    network.restart(3)
    whole = network(images())
    network.restart(3)
    torch.testing.assert_close(torch.cat([network(images()[:2]), network(images()[2:])]), whole)


def test_attacks_see_the_average_of_twenty_draws() -> None:
    network = behind(Jitter(name="jitter"))
    assert isinstance(network, Randomized)
    network.restart(3)
    asked: list[torch.Tensor] = []
    inner = bare()
    hook = network.network.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0]))
    with torch.no_grad():
        found = network.expected(images())
    hook.remove()
    assert len(asked) == DRAWS == 20
    assert len({float(seen.sum()) for seen in asked}) == DRAWS, "every draw is another"
    expected = log_mean_probability(torch.stack([inner(seen) for seen in asked]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(found)))


def test_the_average_approaches_the_expectation() -> None:
    """A brightness factor u uniform in [1/2, 1] on two opposite logits: the mean probability has a closed form."""
    network = behind(Jitter(name="jitter"), linear_network(torch.tensor([[1.0] * 12, [-1.0] * 12])))
    assert isinstance(network, Randomized)
    network.restart(0)
    with torch.no_grad():
        found = network.expected(torch.full((2000, 3, 2, 2), 1 / 12)).exp()[:, 0].mean()
    # softmax = sigmoid(2u), whose integral is log(1 + exp(2u)) / 2.
    exact = (math.log1p(math.exp(2)) - math.log1p(math.exp(1))) / 2 / 0.5
    assert float(found) == pytest.approx(exact, abs=2e-3)


def test_gradients_draw_anew_and_comparisons_do_not() -> None:
    network = behind(Jitter(name="jitter"))
    assert isinstance(network, Randomized)
    network.restart(3)
    answer = network.expected
    with torch.no_grad():
        assert torch.equal(answer(images()), answer(images()))
    first = gradient(answer, images())
    assert not torch.equal(gradient(answer, images()), first)
    assert torch.equal(gradient(network.expected, images()), first), "the same seed, the same draws"


def test_a_random_network_stays_random_behind_any_preprocessor() -> None:
    inner = random_network()
    network = behind(Window(name="window"), inner)
    assert isinstance(network, Randomized)
    network.restart(5)
    first = network(images(40))
    assert not torch.equal(network(images(40)), first)
    network.restart(5)
    assert torch.equal(network(images(40)), first)
    torch.testing.assert_close(network.expected(images()), inner.expected(images()))


def test_a_declared_draw_passes_v8_and_an_undeclared_one_does_not() -> None:
    class Sly(Jitter):
        randomized = False

    verdicts = {}
    for preprocessor in (Window(name="window"), Jitter(name="jitter"), Sly(name="sly")):
        _, check = network_is_sound(behind(preprocessor), images())
        verdicts[preprocessor.name] = check.verdict
    assert verdicts == {"window": "pass", "jitter": "pass", "sly": "fail"}


@pytest.mark.parametrize("depth", [1, 3])
def test_following_the_identity_finds_the_best_patch_behind_rounding(depth: int) -> None:
    """Rounding is monotone, so the vertex that is best for the linear network stays best behind it."""
    network, target, label = behind(Depth(name="depth", depth=depth)), 2, 0
    texture = torch.full((1, 3, SIDE, SIDE), 0.5)
    for _ in range(8):
        own = texture.clone().requires_grad_()
        logits = network(own)
        slope = torch.autograd.grad(logits[0, target] - logits[0, label], own)[0]
        texture = (texture + 0.2 * slope.sign()).clamp(0, 1)
    best = best_patch(weight(), label, target, SIDE, SIDE)
    assert torch.equal(texture[0], best)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda images: images[:, :1], r"images \(5, 1, 6, 6\) float32"),
        (lambda images: images.double(), r"images \(5, 3, 6, 6\) float64"),
        (lambda images: images[:-1], r"images \(4, 3, 6, 6\) float32"),
    ],
)
@pytest.mark.parametrize("differentiable", [True, False])
def test_other_images_than_asked_for_are_refused(
    wrong: Callable[[torch.Tensor], torch.Tensor], found: str, differentiable: bool
) -> None:
    class Wrong(Window):
        def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
            return wrong(images)

    Wrong.differentiable = differentiable
    message = rf"^mine: expected images \(5, 3, 6, 6\) float32 back, found {found}$"
    with pytest.raises(QPatchBenchError, match=message):
        behind(Wrong(name="window", label="mine"))(images())


def test_only_what_fits_learns() -> None:
    learns = {cls.__name__: cls(name="any").learns for cls in (Window, Jitter, Centred, NoPreprocessor)}
    assert learns == {"Window": False, "Jitter": False, "Centred": True, "NoPreprocessor": False}


def test_none_is_built_in_and_keeps_its_name() -> None:
    assert PREPROCESSORS.get("none") is NoPreprocessor
    assert NoPreprocessor(name="none", label="nothing").title == "none"
