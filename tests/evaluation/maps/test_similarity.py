"""Similarity between bit-widths: each figure by hand, its level of chance, and what must not change it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from qpatchbench.defenses.voting import VotingNetwork
from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.similarity import INPUT_GRADIENT, Similarity, measure_similarity
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.types import FLOAT, Bits, ImageSet

EIGHT, FOUR = Bits(8, 8), Bits(4, 4)
OF_MAPS = ["edge_iou", "soft_dice", "hog_cosine", "soft_hog_cosine"]


class Linear(nn.Module):
    """logits = W images, so that the gradient of an image's loss is W^T (p - y)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


class Picks(nn.Module):
    """Hands on one channel of the image as its only map; two logits, the second of them zero."""

    def __init__(self, channel: int, stride: int = 1) -> None:
        super().__init__()
        self.pick = nn.Conv2d(3, 1, 1, stride=stride, bias=False)
        self.next = nn.Conv2d(1, 2, 1, bias=False)
        with torch.no_grad():
            self.pick.weight.zero_()[0, channel] = 1.0
            self.next.weight.zero_()[0] = 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.next(self.pick(images)).mean((2, 3))
        return logits


class Small(nn.Module):
    """Random weights; logits times `gain`."""

    def __init__(self, seed: int, classes: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.next = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4 * 16, classes)
        self.gain = gain

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.next(torch.relu(self.conv(images))))
        pooled = nn.functional.adaptive_avg_pool2d(features, 4)
        logits: torch.Tensor = self.gain * self.head(pooled.flatten(1))
        return logits


def image_set(pixels: torch.Tensor, labels: Sequence[int] | None = None) -> ImageSet:
    """Pixels (N, 3, H, W) in [0, 1]."""
    classes = torch.tensor(labels if labels is not None else [0] * len(pixels))
    return ImageSet((255 * pixels).round().to(torch.uint8), classes, tuple(map(str, range(len(pixels)))))


def random_images(count: int, side: int = 12, classes: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(11)
    return image_set(torch.rand(count, 3, side, side, generator=generator), [i % classes for i in range(count)])


def by_metric(rows: Sequence[Similarity], layer: str, images: str = "clean") -> dict[str, Similarity]:
    """Of a measurement with one pair."""
    chosen = [row for row in rows if (row.layer, row.images) == (layer, images)]
    found: dict[str, Similarity] = {row.metric: row for row in chosen}
    assert len(found) == len(chosen), "one row per metric"
    return found


def two(first: nn.Module, second: nn.Module) -> dict[Bits, nn.Module]:
    return {EIGHT: first, FOUR: second}


@pytest.mark.numerical
def test_a_network_is_like_itself() -> None:
    rows = measure_similarity(two(Small(0), Small(0)), random_images(6, side=16))
    assert {row.layer for row in rows} == {"conv", INPUT_GRADIENT}
    for row in rows:
        if row.metric == "mse":
            assert (row.value, row.standard_error, row.chance, row.corrected) == (0, 0, None, None)
        elif row.metric == "soft_dice":
            # Edges that are cut softly are not wholly like themselves.
            assert 0.95 < row.value < 1
        else:
            assert row.value == pytest.approx(1, abs=1e-6)
            assert row.corrected == pytest.approx(1, abs=1e-5)


@pytest.mark.numerical
def test_independent_gradients_are_at_the_level_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = random_images(96, side=16, classes=96)
    # A class of its own for every image, so that every image has a gradient of its own.
    first, second = (Linear(torch.randn(96, 3, 16, 16, generator=generator)) for _ in range(2))
    found = by_metric(measure_similarity(two(first, second), images, layers=()), INPUT_GRADIENT)
    assert sorted(found) == sorted([*OF_MAPS, "cosine", "mse"])
    for name in [*OF_MAPS, "cosine"]:
        row = found[name]
        assert row.chance is not None
        assert row.standard_error is not None
        assert row.corrected is not None
        assert row.standard_error < 0.02
        assert abs(row.value - row.chance) < 4 * row.standard_error, name
        assert abs(row.corrected) < 0.1
    chances = {name: found[name].chance for name in [*OF_MAPS, "cosine"]}
    # Halved to 8 x 8 pixels. Of the sharper two, 15 % of the pixels are edges: q / (2 - q) = 0.081 and q = 0.15.
    assert chances == {
        "edge_iou": pytest.approx(0.085, abs=0.008),
        "soft_dice": pytest.approx(0.157, abs=0.015),
        "hog_cosine": pytest.approx(0.765, abs=0.01),
        "soft_hog_cosine": pytest.approx(0.783, abs=0.01),
        "cosine": 0.0,
    }


def test_chance_is_the_same_on_every_call() -> None:
    images = random_images(2)
    first = measure_similarity(two(Small(0), Small(1)), images)
    assert measure_similarity(two(Small(0), Small(1)), images) == first
    assert len({row.chance for row in first if row.metric == "hog_cosine"}) == 1, "both maps are 12 x 12"


def test_correction_by_hand() -> None:
    rows = measure_similarity(two(Small(0), Small(1)), random_images(5))
    assert {row.metric for row in rows} > {"mse"}
    for row in rows:
        if row.metric == "mse":
            assert (row.chance, row.corrected) == (None, None)
        else:
            assert row.chance is not None
            assert row.corrected == pytest.approx((row.value - row.chance) / (1 - row.chance))


def test_scaled_logits_of_two_classes_change_no_direction() -> None:
    rows = measure_similarity(two(Small(0, 2), Small(0, 2, gain=3.0)), random_images(6, classes=2))
    found = by_metric(rows, INPUT_GRADIENT)
    for name in ("cosine", "edge_iou", "hog_cosine", "soft_hog_cosine"):
        assert found[name].value == pytest.approx(1, abs=1e-5)
    assert found["mse"].value > 0, "lengths differ"


def spot(row: int, column: int) -> torch.Tensor:
    """8 x 8, one pixel at 1: Sobel's edges are its eight neighbours."""
    pixels = torch.zeros(8, 8)
    pixels[row, column] = 1
    return pixels


def step(column: int) -> torch.Tensor:
    """8 x 8, 1 from this column on."""
    return (torch.arange(8) >= column).float().expand(8, 8)


def stacked(*pairs: tuple[torch.Tensor, torch.Tensor]) -> ImageSet:
    """Images whose red and green channels are given."""
    return image_set(torch.stack([torch.stack([red, green, torch.zeros(8, 8)]) for red, green in pairs]))


def test_edges_by_hand() -> None:
    images = stacked((spot(3, 3), spot(3, 4)), (spot(3, 3), spot(3, 3)), (spot(1, 1), spot(5, 5)))
    found = by_metric(measure_similarity(two(Picks(0), Picks(1)), images, layers=("pick",)), "pick")
    # Two rings of 8 pixels that share 4; the same ring; rings apart. 12.5 % of the pixels are edges.
    overlaps = np.array([4 / 12, 1.0, 0.0])
    assert found["edge_iou"].value == pytest.approx(overlaps.mean())
    assert found["edge_iou"].standard_error == pytest.approx(overlaps.std(ddof=1) / math.sqrt(3))
    # The threshold is 0, so a pixel in a flat part is exactly at it: half an edge. An edge is one: 8 + 56 / 2 = 36.
    shared = np.array([4 + 8 / 2 + 52 / 4, 8 + 56 / 4, 16 / 2 + 48 / 4])
    dice = 2 * shared / (36 + 36)
    assert found["soft_dice"].value == pytest.approx(dice.mean(), abs=1e-6)
    assert found["soft_dice"].standard_error == pytest.approx(dice.std(ddof=1) / math.sqrt(3), abs=1e-6)
    assert {row.n_images for row in found.values()} == {3}


def normalised_block(cells: Sequence[np.ndarray]) -> np.ndarray:
    block = np.concatenate(cells)
    clipped = np.minimum(block / np.linalg.norm(block), 0.2)
    return np.asarray(clipped / np.linalg.norm(clipped))


def test_orientations_by_hand() -> None:
    images = stacked((step(4), step(3)), (step(4), step(4).T))
    found = by_metric(measure_similarity(two(Picks(0), Picks(1)), images, layers=("pick",)), "pick")
    # One block of four cells. A step between columns 3 and 4 has edges in both; one at 3, in the left cells alone.
    # Its orientation of 0 degrees lies between the bins at 10 and 170 degrees; one of 90 degrees is the bin at 90.
    none = np.zeros(9)
    flat = {0: np.eye(9)[0] + np.eye(9)[8], 90: np.eye(9)[4]}
    centres = np.radians(10 + 20 * np.arange(9))
    soft = {angle: np.exp(10 * np.cos(2 * (np.radians(angle) - centres))) for angle in (0, 90)}
    for metric, bins in (("hog_cosine", flat), ("soft_hog_cosine", soft)):
        middle = normalised_block([bins[0]] * 4)
        left = normalised_block([bins[0], none, bins[0], none])
        across = normalised_block([bins[90]] * 4)
        values = np.array([middle @ left, middle @ across])
        assert found[metric].value == pytest.approx(values.mean(), abs=1e-4)
        assert found[metric].standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(2), abs=1e-4)
    assert found["hog_cosine"].value == pytest.approx(math.sqrt(0.5) / 2, abs=1e-4)


def test_gradients_by_hand() -> None:
    weight = torch.zeros(2, 2, 3, 8, 8)
    weight[0, 0, 0, 0, 0] = 1.0
    weight[1, 0, 0, 0, 0], weight[1, 0, 2, 5, 1] = 0.6, 0.8
    images = image_set(torch.zeros(3, 3, 8, 8), [0, 1, 0])
    rows = measure_similarity(two(Linear(weight[0]), Linear(weight[1])), images, layers=())
    found = by_metric(rows, INPUT_GRADIENT)
    # Both classes are equally likely, so every gradient is half the first class' weight, of either sign.
    assert found["cosine"].value == pytest.approx(0.6)
    assert found["cosine"].corrected == pytest.approx(0.6)
    assert found["cosine"].standard_error == pytest.approx(0, abs=1e-7)
    assert found["mse"].value == pytest.approx(0.25 * (0.4**2 + 0.8**2) / (3 * 8 * 8))


@pytest.mark.numerical
@pytest.mark.parametrize("lead", [0, 30, 300])
def test_gradients_of_confident_networks_keep_their_direction(lead: int) -> None:
    generator = torch.Generator().manual_seed(2)
    images = random_images(4, side=8)
    weights = torch.randn(2, 3, 3, 8, 8, generator=generator) / 8
    cosines, errors = [], []
    for image, label in zip(to_float(images.pixels).double(), images.labels.tolist(), strict=True):
        gradients = []
        for weight in weights.double().flatten(2):
            logits = weight @ image.flatten()
            logits[label] += lead
            # p_y - 1 is minus the sum of the others' probabilities, written so that nothing cancels.
            gradients.append(torch.stack([logits.softmax(0)[k] * (weight[k] - weight[label]) for k in range(3)]).sum(0))
        cosines.append(float(torch.cosine_similarity(gradients[0], gradients[1], dim=0, eps=0)))
        errors.append(float((gradients[0] - gradients[1]).square().mean()))

    class Sure(Linear):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels) + lead * nn.functional.one_hot(images.labels, 3)

    rows = measure_similarity(two(Sure(weights[0]), Sure(weights[1])), images, layers=())
    found = by_metric(rows, INPUT_GRADIENT)
    assert found["cosine"].value == pytest.approx(np.mean(cosines), abs=2e-4)
    assert found["mse"].value == pytest.approx(np.mean(errors), rel=1e-2, abs=1e-40)
    assert abs(np.mean(cosines)) < 0.9


def test_tiny_gradients_have_the_structure_of_large_ones() -> None:
    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2)]
    images = image_set(torch.zeros(3, 3, 16, 16), [0, 1, 0])
    large = by_metric(measure_similarity(two(*map(Linear, weights)), images, layers=()), INPUT_GRADIENT)
    tiny_networks = two(*(Linear(1e-12 * weight) for weight in weights))
    tiny = by_metric(measure_similarity(tiny_networks, images, layers=()), INPUT_GRADIENT)
    for name in [*OF_MAPS, "cosine"]:
        assert tiny[name].value == pytest.approx(large[name].value, abs=1e-5), name


def test_networks_without_gradients() -> None:
    dead = Linear(torch.zeros(2, 3, 8, 8))
    images = random_images(3, 8, 2)
    found = by_metric(measure_similarity(two(dead, dead), images, layers=()), INPUT_GRADIENT)
    assert (found["cosine"].value, found["mse"].value) == (0, 0), "no direction is like no direction"
    assert found["edge_iou"].value == 1
    assert found["hog_cosine"].value == pytest.approx(1)
    live = Linear(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    found = by_metric(measure_similarity(two(dead, live), images, layers=()), INPUT_GRADIENT)
    assert (found["cosine"].value, found["edge_iou"].value) == (0, 0)
    assert all(math.isfinite(row.value) for row in found.values())


def test_the_order_of_networks_does_not_matter() -> None:
    networks: dict[Bits, nn.Module] = {FLOAT: Small(0), EIGHT: Small(1), Bits(4, 8): Small(2), FOUR: Small(3)}
    images = random_images(4)
    rows = measure_similarity(networks, images)
    assert measure_similarity(dict(reversed(networks.items())), images) == rows
    pairs = list(dict.fromkeys((row.first_bits, row.second_bits) for row in rows))
    assert pairs == [("32", "8"), ("32", "w4a8"), ("32", "4"), ("8", "w4a8"), ("8", "4"), ("w4a8", "4")]
    alone = measure_similarity({FOUR: networks[FOUR], FLOAT: networks[FLOAT]}, images)
    assert alone == [row for row in rows if (row.first_bits, row.second_bits) == ("32", "4")]


@pytest.mark.numerical
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_batches_do_not_matter(batch_size: int) -> None:
    networks, images = two(Small(0), Small(1)), random_images(7, side=16)
    whole = measure_similarity(networks, images, batch_size=64)
    assert whole, "nothing was compared"
    for split, expected in zip(measure_similarity(networks, images, batch_size=batch_size), whole, strict=True):
        assert split.value == pytest.approx(expected.value, abs=1e-5)
        assert split.standard_error == pytest.approx(expected.standard_error, abs=1e-5)
        figures = {"value", "standard_error", "corrected"}
        assert split.model_dump(exclude=figures) == expected.model_dump(exclude=figures)


def test_patched_images_are_compared_like_clean_ones() -> None:
    networks, images = two(Small(0), Small(1)), random_images(5)
    other = ImageSet(images.pixels.flip(0, 3), images.labels, images.ids)
    rows = measure_similarity(networks, images, to_float(other.pixels))
    clean, patched = ([row for row in rows if row.images == content] for content in ("clean", "patched"))
    assert clean == measure_similarity(networks, images)
    assert [row.model_copy(update={"images": "clean"}) for row in patched] == measure_similarity(networks, other)
    assert [row.value for row in patched] != [row.value for row in clean]


def test_rows_are_complete_and_plain() -> None:
    networks: dict[Bits, nn.Module] = {FLOAT: Small(0), EIGHT: Small(1), FOUR: Small(2)}
    images = random_images(5)
    rows = measure_similarity(networks, images, to_float(images.pixels), batch_size=2)
    # Two contents, three pairs; four metrics of a layer, six of the gradient.
    assert len(rows) == 2 * 3 * (4 + 6)
    assert len({(row.images, row.layer, row.first_bits, row.second_bits, row.metric) for row in rows}) == len(rows)
    assert {row.n_images for row in rows} == {5}
    for row in rows:
        plain = json.loads(json.dumps(row.model_dump(mode="json"), allow_nan=False))
        assert Similarity.model_validate(plain) == row


def test_one_image_has_no_standard_error() -> None:
    rows = measure_similarity(two(Small(0), Small(1)), random_images(1))
    assert {row.standard_error for row in rows} == {None}
    assert {row.n_images for row in rows} == {1}


def test_small_maps_have_edges_but_no_hog() -> None:
    images = random_images(3, side=8, classes=2)
    rows = measure_similarity(two(Picks(0, stride=2), Picks(1, stride=2)), images, layers=("pick",))
    assert sorted(by_metric(rows, "pick")) == ["edge_iou", "soft_dice"], "4 x 4 pixels"
    assert sorted(by_metric(rows, INPUT_GRADIENT)) == sorted([*OF_MAPS, "cosine", "mse"])


def test_networks_are_run_once_per_batch_and_left_alone() -> None:
    networks: dict[Bits, nn.Module] = {FLOAT: Small(0).train(), EIGHT: Small(1).eval(), FOUR: Small(2).eval()}
    calls: dict[Bits, int] = dict.fromkeys(networks, 0)

    def counting(bits: Bits) -> None:
        def count(*_: object) -> None:
            calls[bits] += 1

        networks[bits].register_forward_hook(count)

    for bits in networks:
        counting(bits)
    images = random_images(6)
    before = images.pixels.clone()
    with torch.no_grad():
        measure_similarity(networks, images, batch_size=2)
    assert set(calls.values()) == {3 + 1}, "three batches, and once to learn who reads what"
    assert [network.training for network in networks.values()] == [True, False, False]
    assert all(parameter.grad is None for network in networks.values() for parameter in network.parameters())
    assert torch.equal(images.pixels, before)


def test_networks_are_measured_in_eval_mode() -> None:
    noisy = [nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), Small(seed)) for seed in (0, 1)]
    images = random_images(4)
    rows = measure_similarity(two(*(network.train() for network in noisy)), images)
    assert rows == measure_similarity(two(*(network.eval() for network in noisy)), images)


def test_votes_are_followed_by_what_attacks_follow() -> None:
    images = random_images(4)
    one, other = Small(0), Small(1)
    votes = measure_similarity(two(VotingNetwork([one]), VotingNetwork([other])), images, layers=())
    plain = measure_similarity(two(one, other), images, layers=())
    assert plain, "nothing was compared"
    for found, expected in zip(votes, plain, strict=True):
        assert found.value == pytest.approx(expected.value, abs=1e-4)


def deployments(images: ImageSet) -> Mapping[Bits, nn.Module]:
    build = Small(0)
    quantizer = Ptq(name="ptq", calibration="minmax", bits=(FLOAT, EIGHT, FOUR, Bits(2, 2)))
    checkpoint = Checkpoint(lambda: Small(1), build.state_dict(), None, (FLOAT,))
    return {bits: quantizer.deploy(checkpoint, bits, to_float(images.pixels)) for bits in quantizer.bits}


@pytest.mark.numerical
def test_deployed_widths_drift_apart() -> None:
    images = random_images(24, side=16)
    rows = measure_similarity(deployments(images), images, batch_size=16)
    for layer in ("conv", INPUT_GRADIENT):
        for metric in ("hog_cosine", "edge_iou"):
            to_float32 = {
                row.second_bits: row.value
                for row in rows
                if (row.layer, row.metric, row.first_bits) == (layer, metric, "32")
            }
            assert to_float32["8"] > to_float32["4"] > to_float32["2"], (layer, metric)
            assert to_float32["8"] > 0.9


def test_fewer_than_two_networks_are_refused() -> None:
    with pytest.raises(QPatchBenchError, match="networks of different bits: expected two or more, found 8$"):
        measure_similarity({EIGHT: Small(0)}, random_images(2))
    with pytest.raises(QPatchBenchError, match="expected two or more, found none$"):
        measure_similarity({}, random_images(2))


def test_no_images_are_refused() -> None:
    with pytest.raises(QPatchBenchError, match="a mean over images: expected at least one, found none"):
        measure_similarity(two(Small(0), Small(1)), random_images(2)[:0])


def test_other_patched_images_are_refused() -> None:
    images = random_images(3)
    with pytest.raises(QPatchBenchError, match=r"with a patch on each, \(3, 3, 12, 12\), found \(2, 3, 12, 12\)$"):
        measure_similarity(two(Small(0), Small(1)), images, to_float(images.pixels)[:2])


def test_layers_that_hand_on_no_maps_are_refused() -> None:
    images = random_images(2)
    expected = r"no layer 'next' that hands on maps \(B, C, h, w\) to a convolution in the network at 8 bits\."
    with pytest.raises(QPatchBenchError, match=rf"^{expected}.* Available: conv\.$"):
        measure_similarity(two(Small(0), Small(1)), images, layers=("conv", "next"))
    with pytest.raises(QPatchBenchError, match=r"no layer 'pick' .* at 4 bits"):
        measure_similarity(two(Picks(0), Small(1)), images, layers=("pick",))
    flat = Linear(torch.zeros(2, 3, 12, 12))
    with pytest.raises(QPatchBenchError, match="found no early layers in Linear"):
        measure_similarity(two(flat, flat), images)


def test_logits_that_are_not_finite_are_refused() -> None:
    broken = Linear(torch.full((2, 3, 12, 12), torch.inf))
    with pytest.raises(QPatchBenchError, match="the network's logits are not finite"):
        measure_similarity(two(broken, Linear(torch.ones(2, 3, 12, 12))), random_images(2, classes=2), layers=())
