"""Random precision inference: draws, their expectation, and attacks on both."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import binomtest, chisquare
from torch import nn

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.fp import Fp
from qpatchbench.quantizers.frozen.members import ExpectedNetwork, RandomPrecisionNetwork
from qpatchbench.quantizers.inspection.audit_layers import audit, effective_bits, unquantized_operations
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.random_precision import RandomPrecision
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.registry import QUANTIZERS
from qpatchbench.types import FLOAT, Bits, Network, Randomized

Build = Callable[[], nn.Module]
EIGHT, FOUR, TWO = (Bits(width, width) for width in (8, 4, 2))


def bits(*widths: object) -> tuple[Bits, ...]:
    return tuple(map(Bits.parse, widths))


def checkpoint(build: Build, images: torch.Tensor, *widths: object) -> Checkpoint:
    trained = Qat(name="qat", bits=bits(*widths))
    module = build()
    prepare(module, trained.bits, trained)
    initialize(module, images)
    return Checkpoint(build, module.state_dict(), trained, trained.bits)


def random_precision(*widths: object, seed: int = 0) -> RandomPrecision:
    return RandomPrecision(name="random_precision", bits=bits(*widths), seed=seed)


@pytest.fixture
def network(build: Build, images: torch.Tensor) -> RandomPrecisionNetwork:
    deployed = random_precision(8).deploy(checkpoint(build, images, 32, 8, 4, 2), EIGHT, images)
    assert isinstance(deployed, RandomPrecisionNetwork)
    return deployed


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1) + 0 * images.mean((1, 2, 3)).unsqueeze(1)


def constants(seed: int = 0) -> RandomPrecisionNetwork:
    """Three members, each sure of its own class."""
    return RandomPrecisionNetwork({str(k): Constant(*(9.0 * (k == j) for j in range(3))) for k in range(3)}, seed)


@pytest.mark.parametrize(
    ("widest", "expected"),
    [(8, ["2", "4", "8"]), (4, ["2", "4"]), (2, ["2"]), ("w4a8", ["2", "4", "w4a8"]), ("w8a4", ["2", "4", "w8a4"])],
)
def test_members_are_the_trained_widths_up_to_bits(
    build: Build, images: torch.Tensor, widest: object, expected: list[str]
) -> None:
    source = checkpoint(build, images, 32, 8, "w4a8", 2, 4, "w8a4", "w4a32")
    if widest == 8:
        source = checkpoint(build, images, 8, 32, 2, 4)
    deployed = random_precision(widest).deploy(source, Bits.parse(widest), images)
    assert isinstance(deployed, RandomPrecisionNetwork)
    assert list(deployed.members) == expected
    for name, member in deployed.members.items():
        width = Bits.parse(name)
        reference = Qat(name="qat", bits=(width,)).deploy(source, width, images)
        assert torch.equal(member(images), reference(images))


def test_every_image_is_answered_by_its_own_draw(network: RandomPrecisionNetwork, images: torch.Tensor) -> None:
    network.restart(3)
    drawn = network.draw(len(images))
    assert set(drawn.tolist()) == {0, 1, 2}
    network.restart(3)
    answers = [member(images) for member in network.members.values()]
    expected = torch.stack([answers[int(member)][index] for index, member in enumerate(drawn)])
    assert torch.allclose(network(images), expected, atol=1e-5)
    single = network(images[:1])
    assert any(torch.allclose(single, answer[:1], atol=1e-5) for answer in answers)


def test_draws_are_uniform_and_independent() -> None:
    network = constants()
    images = torch.zeros(3000, 3, 1, 1)
    first, second = network(images).argmax(1), network(images).argmax(1)
    assert chisquare(torch.bincount(torch.cat([first, second]), minlength=3).numpy()).pvalue > 1e-3
    pairs = torch.bincount(3 * first + second, minlength=9)
    assert chisquare(pairs.numpy()).pvalue > 1e-3, "a second draw must not depend on the first"
    neighbours = torch.bincount(3 * first[:-1:2] + first[1::2], minlength=9)
    assert chisquare(neighbours.numpy()).pvalue > 1e-3


def test_seeds_decide_the_draws_and_batches_do_not() -> None:
    images = torch.zeros(60, 3, 1, 1)
    network = constants(seed=1)
    whole = network(images).argmax(1)
    assert not torch.equal(network(images).argmax(1), whole), "draws go on"
    network.restart(1)
    split = torch.cat([network(part).argmax(1) for part in (images[:7], images[7:8], images[8:])])
    assert torch.equal(split, whole)
    assert torch.equal(constants(seed=1)(images).argmax(1), whole)
    assert not torch.equal(constants(seed=2)(images).argmax(1), whole)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images), network(images))
    before = torch.get_rng_state()
    network(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_is_a_field(build: Build, images: torch.Tensor) -> None:
    source = checkpoint(build, images, 4, 2)
    outputs = [random_precision(4, seed=seed).deploy(source, FOUR, images)(images) for seed in (0, 0, 1)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert random_precision(4).identity() != random_precision(4, seed=1).identity()


def test_the_expectation_is_the_mean_of_probabilities(network: RandomPrecisionNetwork, images: torch.Tensor) -> None:
    expected = torch.stack([member(images).double().softmax(1) for member in network.members.values()]).mean(0)
    found = network.expected(images)
    assert torch.allclose(found.double().exp(), expected, atol=1e-6)
    assert torch.equal(network.expected(images), found), "deterministic"
    sure = ExpectedNetwork(nn.ModuleDict({"2": Constant(200.0, 0.0), "4": Constant(0.0, 200.0)}))
    assert torch.allclose(sure(torch.zeros(1, 3, 1, 1)), torch.tensor([[0.5, 0.5]]).log()), "no overflow"


def test_one_member_is_its_own_expectation(build: Build, images: torch.Tensor) -> None:
    deployed = random_precision(2).deploy(checkpoint(build, images, 4, 2), TWO, images)
    assert isinstance(deployed, RandomPrecisionNetwork)
    (member,) = deployed.members.values()
    assert torch.equal(deployed(images), member(images))
    assert torch.allclose(deployed.expected(images), member(images).log_softmax(1), atol=1e-6)


def test_the_gradient_of_the_expectation_is_the_mean_of_its_members(
    network: RandomPrecisionNetwork, images: torch.Tensor
) -> None:
    """For log-probabilities: each member's gradient, weighted by its share of the mean probability."""
    asked = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(network.expected(asked)[:, 1].sum(), asked)
    total, weighted = torch.zeros(len(images)), torch.zeros_like(images)
    for member in network.members.values():
        likelihood = member(asked).softmax(1)[:, 1]
        weighted += torch.autograd.grad(likelihood.sum(), asked)[0]
        total += likelihood.detach()
    assert float(found.abs().max()) > 0
    assert torch.allclose(found, weighted / total.view(-1, 1, 1, 1), rtol=1e-3, atol=1e-6)
    (drawn,) = torch.autograd.grad(network(asked).square().sum(), asked)
    assert bool((drawn.abs().sum((1, 2, 3)) > 0).all()), "the draw itself is differentiable"


@pytest.mark.numerical
def test_repeated_evaluation_lies_in_the_interval_of_the_expectation(images: torch.Tensor) -> None:
    """Accuracy over at least ten rounds of draws against the exact mean of the members' accuracies."""
    network, labels = constants(), torch.arange(len(images)) % 2  # members are right on a half, a half and none
    shares = [float((member(images).argmax(1) == labels).float().mean()) for member in network.members.values()]
    exact, rounds = sum(shares) / len(shares), 40
    assert 0 < exact < 1
    correct = sum(int((network(images).argmax(1) == labels).sum()) for _ in range(rounds))
    assert binomtest(correct, rounds * len(images), exact).pvalue > 1e-3


def perturbed(network: Network, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    points = images
    for _ in range(10):
        points = points.detach().requires_grad_()
        loss = nn.functional.cross_entropy(network(points), labels, reduction="sum")
        points = points + 0.02 * torch.autograd.grad(loss, points)[0].sign()
        points = (images + (points - images).clamp(-0.08, 0.08)).clamp(0, 1)
    return points.detach()


@pytest.mark.numerical
def test_an_attack_on_the_expectation_beats_one_on_a_member(network: RandomPrecisionNetwork) -> None:
    images = torch.rand(96, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    labels = network.expected(images).argmax(1)

    def error(attacked: torch.Tensor) -> float:
        """Exact: the mean over members of how often they are wrong."""
        return sum(float((m(attacked).argmax(1) != labels).float().mean()) for m in network.members.values()) / 3

    clean, adaptive = error(images), error(perturbed(network.expected, images, labels))
    single = [error(perturbed(member, images, labels)) for member in network.members.values()]
    assert adaptive > clean + 0.1
    # No theory puts the expectation above the luckiest member; above their mean it was by 0.07.
    assert adaptive > sum(single) / len(single) + 0.02


def test_audit_counts_every_member(network: RandomPrecisionNetwork, images: torch.Tensor) -> None:
    state = network.generator.get_state()
    rows = audit(network, images)
    assert torch.equal(network.generator.get_state(), state)
    assert [row.name for row in rows[:4]] == [
        "members.2.stem.0", "members.2.conv", "members.2.head", "members.4.stem.0",
    ]  # fmt: skip
    assert [row.weight_bits for row in rows] == [2] * 3 + [4] * 3 + [8] * 3
    assert [row.activation_bits for row in rows] == [8, 2, 2, 8, 4, 4, 8, 8, 8]
    assert all((row.weight_levels or 0) <= 2**row.weight_bits - 1 for row in rows)
    assert effective_bits(rows).weight == pytest.approx(14 / 3)
    assert unquantized_operations(network) == ()
    assert rows == tuple(
        row.__class__(**{**row.__dict__, "name": f"members.{name}.{row.name}"})
        for name, member in network.members.items()
        for row in audit(member, images)
    )
    assert len(audit(nn.Sequential(network.members["4"]), images)) == 3


def test_it_is_frozen_and_says_that_it_is_random(network: RandomPrecisionNetwork) -> None:
    assert isinstance(network, Randomized)
    assert not any(part.training for part in network.modules())
    assert not any(part.training for part in network.expected.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not isinstance(network.expected, Randomized)
    assert list(network.expected.parameters())[0] is list(network.parameters())[0], "members are shared"


def test_errors_say_what_can_be_drawn(build: Build, images: torch.Tensor) -> None:
    with pytest.raises(ValidationError, match="expected the widest bit-width to draw, 2..16, found 32"):
        random_precision(32, 8)
    source = checkpoint(build, images, 32, 8, 4)
    with pytest.raises(QPatchBenchError, match="not trained at 5 bits, the widest that random_precision is to draw. "
                       "Available: 8, 4"):  # fmt: skip
        random_precision(5).deploy(source, Bits(5, 5), images)
    untrained = Checkpoint(build, build().state_dict(), None, (FLOAT,))
    with pytest.raises(QPatchBenchError, match="needs trained quantizers, found a float checkpoint"):
        random_precision(8).deploy(untrained, EIGHT, images)
    with pytest.raises(ValidationError):
        random_precision(8, seed=-1)


def test_which_quantizers_want_trained_ones() -> None:
    wanting = [name for name in QUANTIZERS.entries if QUANTIZERS.get(name).wants_trained]
    assert wanting == ["qat", "random_precision"]
    assert not RandomPrecision.trained, "a defense trains the quantizers of another entry"
    assert not Fp.wants_trained
    made = create(QUANTIZERS, {"name": "random_precision", "bits": (8, 4), "label": "rpi"})
    assert made.mode == "rpi"
