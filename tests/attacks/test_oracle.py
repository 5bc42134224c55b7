"""Attacks against networks whose best patch is known exactly (`qpatchbench.testing.fixtures.oracles`)."""

from __future__ import annotations

import itertools

import pytest
import torch

from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan, LavanPerImage
from qpatchbench.evaluation.checks.artifacts import patch_gradients
from qpatchbench.evaluation.measure import clean_predictions, patched_predictions
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import forked
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.testing.fixtures.oracles import best_patch, linear_network, margin_gain, patch_weight
from qpatchbench.types import FLOAT, Bits, CraftTask, ImageSet, Patch, Placement, Targeted, Untargeted

SIDE, SIZE = 8, 4
PIXELS = 3 * SIDE * SIDE
WIDTHS = ("32", "w8a32", "w4a32", "w3a32", "w2a32")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, label: int, seed: int = 0) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draws(seed), dtype=torch.uint8)
    return ImageSet(pixels, torch.full((count,), label), tuple(map(str, range(count))))


def at_place(row: int, column: int, count: int = 1) -> Placement:
    zeros = torch.zeros(count)
    return Placement(torch.full((count,), row), torch.full((count,), column), zeros, zeros + 1)


def test_oracle_is_the_mean_over_all_places() -> None:
    """The slope, against pasting at each of the 25 places and reading the logits."""
    weight = torch.randn(3, PIXELS, generator=draws(1))
    texture = torch.rand(3, SIZE, SIZE, generator=draws(2))
    network = linear_network(weight)
    black = torch.zeros(1, 3, SIDE, SIDE)  # so that what the patch covers adds nothing
    margins = []
    for row, column in itertools.product(range(SIDE - SIZE + 1), repeat=2):
        logits = network(paste(black, texture[None], torch.ones(1, 1, SIZE, SIZE), at_place(row, column)))[0]
        margins.append(float((logits[2] - logits[0]).detach()))
    assert margin_gain(weight, texture, 0, 2, SIDE) == pytest.approx(sum(margins) / 25, abs=1e-5)


def test_no_patch_beats_the_oracles() -> None:
    """Exhaustively over the vertices of a patch of 1 x 1 x 3, and against random patches of full size."""
    weight = torch.randn(2, PIXELS, generator=draws(3))
    vertices = [torch.tensor(v).view(3, 1, 1) for v in itertools.product([0.0, 1.0], repeat=3)]
    best = margin_gain(weight, best_patch(weight, 0, 1, SIDE, 1), 0, 1, SIDE)
    assert best == pytest.approx(max(margin_gain(weight, vertex, 0, 1, SIDE) for vertex in vertices))
    best = margin_gain(weight, best_patch(weight, 0, 1, SIDE, SIZE), 0, 1, SIDE)
    random_patches = torch.rand(500, 3, SIZE, SIZE, generator=draws(4))
    assert best > max(margin_gain(weight, texture, 0, 1, SIDE) for texture in random_patches)


@pytest.mark.numerical
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("attack", "spread"),
    [
        (Lavan(name="lavan", size=SIZE, steps=400, batch_size=64), 1.0),
        # The cross-entropy bends where margins are large, so its best patch is another; small ones do not.
        (Gap(name="gap", size=SIZE, steps=400, batch_size=64, rotation=0), 0.02),
    ],
    ids=["lavan", "gap"],
)
def test_universal_attacks_reach_the_optimum(attack: Lavan | Gap, spread: float, seed: int) -> None:
    weight = spread * torch.randn(2, PIXELS, generator=draws(10 + seed))
    network = linear_network(weight).requires_grad_(False)
    for label in (0, 1):
        images = random_images(1024, label)
        patch = attack.craft(CraftTask((network,), (Targeted(1 - label),), images, draws(seed)))
        best = margin_gain(weight, best_patch(weight, label, 1 - label, SIDE, SIZE), label, 1 - label, SIDE)
        gain = margin_gain(weight, patch.textures[0], label, 1 - label, SIDE)
        assert gain >= 0.95 * best, f"{gain:.3f} of {best:.3f} possible"


@pytest.mark.numerical
def test_several_goals_each_reach_their_own_optimum() -> None:
    weight = torch.randn(4, PIXELS, generator=draws(20))
    goals = (Targeted(2), Targeted(1), Targeted(3))
    attack = Lavan(name="lavan", size=SIZE, steps=400, batch_size=32)
    network = linear_network(weight).requires_grad_(False)
    patch = attack.craft(CraftTask((network,), goals, random_images(1024, 0), draws(0)))
    for texture, goal in zip(patch.textures, goals, strict=True):
        best = margin_gain(weight, best_patch(weight, 0, goal.class_id, SIDE, SIZE), 0, goal.class_id, SIDE)
        assert margin_gain(weight, texture, 0, goal.class_id, SIDE) >= 0.95 * best


@pytest.mark.numerical
@pytest.mark.parametrize("untargeted", [False, True])
def test_per_image_attack_reaches_the_optimum_of_its_place(untargeted: bool) -> None:
    """With two classes the untargeted margin is the targeted one."""
    weight = torch.randn(2, PIXELS, generator=draws(30))
    images = random_images(12, 0)
    placement = sample_placement(12, (SIDE, SIDE), (SIZE, SIZE), draws(1))
    attack = LavanPerImage(name="lavan_per_image", size=SIZE)
    goal = Untargeted() if untargeted else Targeted(1)
    network = linear_network(weight).requires_grad_(False)
    patch = attack.craft(CraftTask((network,), (goal,), images, draws(2), attacked=images, placement=placement))
    slope = (weight[1] - weight[0]).view(3, SIDE, SIDE)
    for index, texture in enumerate(patch.textures):
        row, column = int(placement.rows[index]), int(placement.columns[index])
        window = slope[:, row : row + SIZE, column : column + SIZE]
        assert float((window * texture).sum()) >= 0.95 * float(window.clamp(min=0).sum())


def test_first_step_of_lavan_is_the_difference_of_weights_under_the_patch() -> None:
    weight = torch.randn(3, PIXELS, generator=draws(40))
    network = linear_network(weight).requires_grad_(False)
    images, placement = random_images(1, 0), at_place(3, 1)
    slope = (weight[2] - weight[0]).view(3, SIDE, SIDE)[:, 3 : 3 + SIZE, 1 : 1 + SIZE]
    start = torch.rand(1, 3, SIZE, SIZE, generator=forked(draws(5)))[0]
    attack = LavanPerImage(name="lavan_per_image", size=SIZE, steps=1)
    patch = attack.craft(CraftTask((network,), (Targeted(2),), images, draws(5), attacked=images, placement=placement))
    expected = (start + 0.05 * slope / slope.abs().max()).clamp(0, 1)
    assert torch.allclose(patch.textures[0], expected, atol=1e-5)


def test_gradient_at_the_patch_is_the_difference_of_weights() -> None:
    weight = torch.randn(2, PIXELS, generator=draws(41))
    network = linear_network(weight).requires_grad_(False)
    placement = sample_placement(5, (SIDE, SIDE), (SIZE, SIZE), draws(1))
    patch = Patch(torch.rand(1, 3, SIZE, SIZE, generator=draws(2)), torch.ones(1, 1, SIZE, SIZE), (Untargeted(),))
    gradients = patch_gradients(network, random_images(5, 0), patch, placement)
    slope = (weight[0] - weight[1]).view(3, SIDE, SIDE)
    for index, gradient in enumerate(gradients):
        row, column = int(placement.rows[index]), int(placement.columns[index])
        assert torch.allclose(gradient, slope[:, row : row + SIZE, column : column + SIZE], atol=1e-6)


def test_a_patch_of_the_whole_image_always_succeeds() -> None:
    weight = 0.2 * torch.randn(4, PIXELS, generator=draws(50))
    network = linear_network(weight).requires_grad_(False)
    pixels = random_images(48, 0).pixels
    labels = clean_predictions(network, ImageSet(pixels, torch.zeros(48), ("",) * 48), 16).long()
    images = ImageSet(pixels, labels, tuple(map(str, range(48))))
    goals = tuple(map(Targeted, range(4)))
    for attack in (
        Lavan(name="lavan", size=SIDE, steps=150, batch_size=16),
        Gap(name="gap", size=SIDE, steps=150, batch_size=16, rotation=0),
    ):
        patch = attack.craft(CraftTask((network,), goals, images, draws(0)))
        everywhere = at_place(0, 0, 48)
        patched = patched_predictions(network, images, patch, everywhere, 16)
        assert torch.equal(patched, torch.arange(4, dtype=torch.int32).view(4, 1).expand(4, 48))


class Matrix:
    """Source bits x target bits on one linear network, every entry measured and exact.

    The rows of the weight have equal maxima, so that all quantizers share one scale and rounding is monotone; and no
    two weights under the patch are closer than a twentieth of the range, so that no float slope is negligible.
    """

    row, column = 2, 3

    def __init__(self, seed: int) -> None:
        generator = draws(seed)
        weight = 1.9 * torch.rand(2, 3, SIDE, SIDE, generator=generator) - 0.95
        difference = weight[1] - weight[0]
        close = difference.abs() < 0.1
        weight[1] = torch.where(close, weight[0] - 0.15 * weight[0].sign(), weight[1])
        weight[0, 0, 0, 0] = weight[1, 2, 0, 0] = 1.0  # outside the patch
        self.weight = weight.flatten(1)
        checkpoint = Checkpoint(self.build, self.build().state_dict(), None, (FLOAT,))
        ptq = Ptq(name="ptq", bits=tuple(map(Bits.parse, WIDTHS)))
        images = random_images(8, 0)
        self.networks = {w: ptq.deploy(checkpoint, Bits.parse(w), to_float(images.pixels)) for w in WIDTHS}
        attack = LavanPerImage(name="lavan_per_image", size=SIZE, steps=450)
        self.textures = {
            width: attack.craft(
                CraftTask(
                    (network,),
                    (Targeted(1),),
                    images,
                    draws(seed),
                    attacked=images[:1],
                    placement=at_place(self.row, self.column),
                )  # fmt: skip
            ).textures[0]
            for width, network in self.networks.items()
        }

    def build(self) -> torch.nn.Module:
        """The float network."""
        return linear_network(self.weight)

    def slope(self, width: str) -> torch.Tensor:
        """Gradient of the margin at `width` under the patch; the weights are rounded here, by numpy."""
        weight = self.weight.double()
        if width != "32":
            largest = 2 ** (int(width[1:-3]) - 1) - 1
            step = float(weight.abs().max()) / largest
            weight = torch.from_numpy((weight.numpy() / step).round()) * step
        difference = (weight[1] - weight[0]).view(3, SIDE, SIDE)
        return difference[:, self.row : self.row + SIZE, self.column : self.column + SIZE]

    def exact(self, source: str, target: str) -> float:
        """Margin that the best patch of `source` adds on `target`; as crafted where the source is blind."""
        slope = self.slope(source)
        best = torch.where(slope.abs() < 1e-9, self.textures[source].double(), (slope > 0).double())
        return float((self.slope(target) * best).sum())

    def measured(self, source: str, target: str) -> float:
        """The same, from the logits of the deployed network on a patched image and one with a black patch."""
        network, black = self.networks[target], torch.zeros(3, SIZE, SIZE)
        image, ones = torch.full((1, 3, SIDE, SIDE), 0.5), torch.ones(1, 1, SIZE, SIZE)
        margins = []
        for texture in (self.textures[source], black):
            with torch.no_grad():
                logits = network(paste(image, texture[None], ones, at_place(self.row, self.column)))[0]
            margins.append(float(logits[1] - logits[0]))
        return margins[0] - margins[1]


@pytest.fixture(scope="module", params=[0, 1])
def matrix(request: pytest.FixtureRequest) -> Matrix:
    return Matrix(request.param)


@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("source", WIDTHS)
def test_transfer_matrix_is_exact(matrix: Matrix, source: str, target: str) -> None:
    assert matrix.measured(source, target) == pytest.approx(matrix.exact(source, target), rel=0.005)


@pytest.mark.parametrize("target", WIDTHS)
def test_the_float_patch_is_optimal_at_every_width(matrix: Matrix, target: str) -> None:
    """Rounding is monotone: where the float slope is positive, the quantized one is not negative."""
    best = float(matrix.slope(target).clamp(min=0).sum())
    assert matrix.measured("32", target) / best == pytest.approx(1.0, abs=1e-3)


@pytest.mark.numerical
def test_the_matrix_is_asymmetric(matrix: Matrix) -> None:
    """A 2-bit network is blind to many pixels that matter at 32 bits; a 32-bit one is blind to none."""
    blind = matrix.slope("w2a32").abs() < 1e-9
    assert 0.2 < float(blind.double().mean()) < 0.8
    best = float(matrix.slope("32").clamp(min=0).sum())
    assert matrix.measured("w2a32", "32") / best < 0.95
    assert matrix.measured("32", "w2a32") / float(matrix.slope("w2a32").clamp(min=0).sum()) > 0.999


def test_transfer_to_float_improves_with_the_bits_of_the_source(matrix: Matrix) -> None:
    to_float_network = [matrix.measured(source, "32") for source in ("w2a32", "w4a32", "w8a32", "32")]
    assert to_float_network == sorted(to_float_network)


def test_quantized_slopes_are_those_of_the_deployed_network(matrix: Matrix) -> None:
    for width, network in matrix.networks.items():
        image = torch.full((1, 3, SIDE, SIDE), 0.5, requires_grad=True)
        logits = network(image)[0]
        (gradient,) = torch.autograd.grad(logits[1] - logits[0], image)
        window = gradient[0, :, matrix.row : matrix.row + SIZE, matrix.column : matrix.column + SIZE]
        assert torch.allclose(window.double(), matrix.slope(width), atol=1e-6)


def test_a_sign_error_would_be_noticed() -> None:
    weight = torch.randn(2, PIXELS, generator=draws(60))
    worst = 1 - best_patch(weight, 0, 1, SIDE, SIZE)
    best = margin_gain(weight, best_patch(weight, 0, 1, SIDE, SIZE), 0, 1, SIDE)
    assert margin_gain(weight, worst, 0, 1, SIDE) < 0 < best
    assert float((patch_weight(weight, 0, 1, SIDE, SIZE) + patch_weight(weight, 1, 0, SIDE, SIZE)).abs().max()) < 1e-6
