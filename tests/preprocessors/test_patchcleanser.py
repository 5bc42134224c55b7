"""PatchCleanser against a literal reading of its algorithms, and its certificate against every patch there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.preprocessors.patchcleanser import PatchCleanser, covering, most_frequent, pairs
from qpatchbench.preprocessors.preprocessed import preprocessed
from qpatchbench.types import Network

SIDE, CLASSES = 4, 3


def tiny_network(seed: int) -> Network:
    """Brightness of a 4 x 4 image -> 3 logits, by a little perceptron."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(8, SIDE * SIDE, generator=generator)
    second = torch.randn(CLASSES, 8, generator=generator)
    return lambda images: torch.relu((images.mean(dim=1).flatten(1) - 0.5) @ first.T) @ second.T


def draws(count: int, seed: int) -> torch.Tensor:
    """Black and white in equal parts: grey images, whose answers a single mask changes."""
    grey = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return grey.round().expand(-1, 3, -1, -1).clone()


def read_literally(network: Network, image: torch.Tensor, side: int, masks: int, colour: float) -> int:
    """Algorithm 1 for one image, with loops and lists."""
    length = image.shape[-1]
    stride = -(-(length - side + 1) // masks)
    width = min(side + stride - 1, length)
    starts = sorted({*range(0, length - width, stride), length - width})

    def answer(*corners: tuple[int, int]) -> int:
        shown = image.clone()
        for row, column in corners:
            shown[:, row : row + width, column : column + width] = colour
        return int(network(shown[None]).argmax())

    corners = list(itertools.product(starts, starts))
    answers = [answer(corner) for corner in corners]
    majority = min(range(CLASSES), key=lambda label: (-answers.count(label), label))
    if len(set(answers)) == 1:
        return majority
    for corner, own in zip(corners, answers, strict=True):
        if own != majority and all(answer(corner, second) == own for second in corners):
            return own
    return majority


def cleanser(side: int, masks: int = 2) -> PatchCleanser:
    return PatchCleanser(name="patchcleanser", size=side, masks=masks)


STATE = {"colour": torch.full((3,), 0.5)}


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_those_of_the_algorithm(seed: int) -> None:
    network, images = tiny_network(seed), draws(40, seed)
    for side, masks in ((1, 2), (1, 4), (2, 3)):
        found = cleanser(side, masks).answer(network, images, STATE).argmax(dim=1)
        expected = [read_literally(network, image, side, masks, 0.5) for image in images]
        assert found.tolist() == expected


@pytest.mark.parametrize("seed", [0, 5, 7])
def test_no_black_and_white_patch_of_the_size_turns_a_certified_image(seed: int) -> None:
    # All 2^4 grey patches of 2 x 2 at all 9 places of all images, for networks of which many images are not certified.
    images = draws(30, seed)
    network, own = tiny_network(seed), cleanser(2, 3)
    labels = own.answer(network, images, STATE).argmax(dim=1)
    certified = own.certified(network, images, labels, STATE)
    turned = torch.zeros(30, dtype=torch.bool)
    for colours in itertools.product((0.0, 1.0), repeat=4):
        for row, column in itertools.product(range(3), range(3)):
            shown = images.clone()
            shown[:, :, row : row + 2, column : column + 2] = torch.tensor(colours).view(2, 2)
            turned |= own.answer(network, shown, STATE).argmax(dim=1) != labels
    assert not bool((turned & certified).any())
    assert 0 < int(certified.sum()) < 30
    assert bool(turned.any()), "patches that turn what is not certified"


def test_certificates_are_those_of_all_pairs() -> None:
    images = draws(50, seed=9)
    network, own = tiny_network(9), cleanser(1, 2)
    labels = network(images).argmax(dim=1)
    hidden = [down[:, None] & across for down in covering(SIDE, 1, 2) for across in covering(SIDE, 1, 2)]
    expected = torch.ones(50, dtype=torch.bool)
    for first, second in itertools.product(hidden, hidden):
        expected &= network(images.masked_fill(first | second, 0.5)).argmax(dim=1) == labels
    assert torch.equal(own.certified(network, images, labels, STATE), expected)
    assert 0 < int(expected.sum()) < 50
    assert not own.certified(network, images, (labels + 1) % CLASSES, STATE).any(), "a wrong answer has no certificate"


def test_every_patch_is_covered() -> None:
    for length, side, masks in itertools.product((4, 7, 16, 32), (1, 2, 3, 4), (1, 2, 3, 6)):
        intervals = covering(length, side, masks)
        assert len(intervals) <= masks
        for start in range(length - side + 1):
            assert intervals[:, start : start + side].all(dim=1).any(), (length, side, masks, start)


def test_the_published_sizes() -> None:
    # 224 pixels, a patch of 2 % (32 pixels) and k = 6: stride 33, mask 64 (section 4.1 of the authors' code).
    intervals = covering(224, 32, 6)
    assert len(intervals) == 6
    assert set(intervals.sum(dim=1).tolist()) == {64}
    assert len(list(pairs(36))) == 666


def test_the_majority_is_the_lowest_of_the_most_frequent() -> None:
    assert most_frequent(torch.tensor([[2, 2, 1, 1], [0, 2, 2, 1], [1, 1, 1, 1]])).tolist() == [1, 2, 1]


def test_the_gradient_is_that_of_the_mean_over_single_masks() -> None:
    network, images = tiny_network(1), torch.rand(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    own, shown = cleanser(2, 3), images.clone().requires_grad_()
    (found,) = torch.autograd.grad(own.answer(network, shown, STATE)[:, 0].sum(), shown)
    hidden = [down[:, None] & across for down in covering(SIDE, 2, 3) for across in covering(SIDE, 2, 3)]
    mean = torch.stack([network(shown.masked_fill(mask, 0.5)) for mask in hidden]).mean(dim=0)
    (expected,) = torch.autograd.grad(mean[:, 0].sum(), shown)
    torch.testing.assert_close(found, expected)


def test_behind_a_network_that_draws_there_is_no_certificate() -> None:
    class Drawing(torch.nn.Module):
        expected = staticmethod(tiny_network(0))

        def restart(self, seed: int) -> None:
            """Draws nothing."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.expected(images)

    images, labels = torch.rand(2, 3, SIDE, SIDE), torch.zeros(2, dtype=torch.int64)
    assert preprocessed(Drawing(), cleanser(1), STATE).certified(images, labels) is None
    fixed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, CLASSES))
    assert preprocessed(fixed, cleanser(1), STATE).certified(images, labels) is not None


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(QPatchBenchError, match="expected a patch no larger than the images, 4 x 4 pixels, found 5"):
        cleanser(5).answer(tiny_network(0), torch.rand(1, 3, SIDE, SIDE), STATE)
