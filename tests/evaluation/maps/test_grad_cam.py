"""Grad-CAM against its closed form, where it is taken, and how the agreement of bit-widths is counted."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.agreement import of_other_images
from qpatchbench.evaluation.maps.grad_cam import cam_agreements, cam_layer, cam_values, grad_cams, most_relevant
from qpatchbench.ops.maps.similarity import cosine
from qpatchbench.registry import MODELS
from qpatchbench.types import FLOAT, Bits

FOUR = Bits(4, 4)


class Pooled(nn.Module):
    """Two convolutions, the mean of their maps, and a linear layer: CAM has a closed form (Selvaraju, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first = nn.Conv2d(3, 5, 3, padding=1)
            self.second = nn.Conv2d(5, 7, 3, padding=1)
            self.head = nn.Linear(7, 3)
        self.active = nn.ReLU()
        self.requires_grad_(False)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.active(self.second(torch.relu(self.first(images))))
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.maps(images).mean((2, 3)))
        return logits


def images(count: int, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(9))


def test_it_is_the_class_activation_map_where_that_exists() -> None:
    network, pixels, labels = Pooled(), images(5), torch.tensor([0, 1, 2, 2, 0])
    with torch.no_grad():
        expected = torch.einsum("bk,bkhw->bhw", network.head.weight[labels], network.maps(pixels)).relu()
    largest = expected.amax(dim=(1, 2), keepdim=True)
    found = grad_cams(network, cam_layer(network, pixels), pixels, labels, batch_size=2)
    torch.testing.assert_close(found, expected / largest.where(largest > 0, torch.ones(())))
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_where_nothing_speaks_for_the_class_the_map_is_blank() -> None:
    network = Pooled()
    network.head.weight.data[1] = -1.0
    found = grad_cams(network, "active", images(2), torch.tensor([1, 1]), batch_size=2)
    assert bool((found == 0).all())


def test_batches_change_nothing() -> None:
    network, pixels, labels = Pooled(), images(5), torch.tensor([0, 1, 2, 2, 0])
    one, other = (grad_cams(network, "active", pixels, labels, size) for size in (5, 2))
    torch.testing.assert_close(one, other)


def built(name: str, side: int) -> tuple[nn.Module, torch.Tensor]:
    return create(MODELS, {"name": name}).build(10, side).eval(), images(1, side)


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [
        ("resnet20", 32, "backbone.layer3"),  # the sum of the last block, after its nonlinearity
        ("resnet20", 8, "backbone.layer2"),  # maps of 2x2 say nothing about where
    ],
)
def test_the_layer_is_the_last_map_where_it_is_ready(name: str, side: int, layer: str) -> None:
    assert cam_layer(*built(name, side)) == layer


def test_a_sequence_of_layers_is_explained_after_its_nonlinearity() -> None:
    network, pixels = Pooled(), images(1)
    assert cam_layer(network.train(), pixels) == "active"
    assert network.training, "left as it came"


def test_a_transformer_is_refused() -> None:
    with pytest.raises(QPatchBenchError, match=r"a transformer hands on tokens. Set analysis.maps to 0"):
        cam_layer(*built("timm/vit_tiny_patch16_224", 32))


def test_too_small_images_are_refused() -> None:
    with pytest.raises(QPatchBenchError, match=r"4 pixels a side or more, and Pooled has none for images of 3x3"):
        cam_layer(Pooled(), images(1, side=3))


def test_a_width_without_the_layer_is_refused() -> None:
    with pytest.raises(QPatchBenchError, match="expected a layer 'other' at every bit-width"):
        grad_cams(Pooled(), "other", images(1), torch.tensor([0]), 1)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QPatchBenchError, match="captum, which is not installed: pip install captum"):
        grad_cams(Pooled(), "active", images(1), torch.tensor([0]), 1)


def test_a_fifth_of_the_pixels_is_most_relevant() -> None:
    maps = torch.arange(1.0, 51.0).view(1, 5, 10)
    kept = most_relevant(maps)
    assert int(kept.sum()) == 10
    assert bool(kept[0, -1].all()), "the ten largest are the last row"
    sparse = torch.zeros(1, 5, 10)
    sparse[0, 0, :3] = 1.0
    assert int(most_relevant(sparse).sum()) == 3, "what is not positive is not relevant"
    assert int(most_relevant(torch.zeros(1, 5, 10)).sum()) == 0


def test_values_by_hand() -> None:
    first, second = torch.zeros(2, 1, 10), torch.zeros(2, 1, 10)
    first[0, 0, :2], second[0, 0, 1:3] = 1.0, 1.0
    found = cam_values(first, second)
    assert found["cosine"].tolist() == pytest.approx([0.5, 0.0])
    assert found["iou"].tolist() == pytest.approx([1 / 3, 0.0]), "two blank maps agree on nothing"


def test_rows_of_agreement() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 4, 5, generator=generator)
    blank = maps.clone()
    blank[2] = 0
    rows = {row.metric: row for row in cam_agreements("patched", "layer3", {FOUR: blank, FLOAT: maps})}
    assert set(rows) == {"cosine", "iou"}
    for row in rows.values():
        assert (row.images, row.layer, row.reference_bits, row.bits) == ("patched", "layer3", "32", "4")
        assert row.value == pytest.approx(5 / 6)
        assert (row.n_images, row.n_blank) == (6, 1)
        assert row.chance is not None
        assert row.corrected == pytest.approx((row.value - row.chance) / (1 - row.chance))
    assert rows["cosine"].chance == pytest.approx(every_other_image(maps, blank))


def every_other_image(first: torch.Tensor, second: torch.Tensor) -> float:
    pairs = [(i, j) for i in range(len(first)) for j in range(len(first)) if i != j]
    return float(torch.stack([cosine(first[i : i + 1], second[j : j + 1])[0] for i, j in pairs]).mean())


def test_chance_of_one_image_is_unknown_and_of_many_is_sampled() -> None:
    maps = torch.rand(1, 4, 4)
    assert of_other_images(cosine, maps, maps) is None
    met: list[int] = []

    def shift(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        met.append(int(first[0] - second[0]) % 100)
        return torch.ones(len(first))

    many = torch.arange(100)
    assert of_other_images(shift, many, many) == 1.0
    assert len(met) == len(set(met)) == 16
    assert 0 not in met, "no image meets itself"
