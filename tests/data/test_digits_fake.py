"""The two datasets that need no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.digits import Digits
from qpatchbench.data.fake import Fake
from qpatchbench.data.splitting import check_disjoint, pixel_hashes
from qpatchbench.errors import DataError
from qpatchbench.types import ImageSet

PARTS = ("train", "calibration", "craft", "evaluation")


def load(source: Digits | Fake, cache: Path, evaluation: int = 10_000) -> Splits:
    return source.load(cache / "no data needed", cache, Decoding(), evaluation)


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    splits = load(Digits(image_size=8), tmp_path)
    original = load_digits()
    seen = []
    for part in (getattr(splits, name) for name in PARTS):
        for pixels, label, name in zip(part.pixels, part.labels, part.ids, strict=True):
            index = int(name.partition("/")[2])
            seen.append(index)
            expected = np.round(original.images[index] * 255 / 16)
            assert (pixels.numpy() == expected).all()
            assert label == original.target[index]
    assert sorted(seen) == list(range(1797))


def test_digits_split(tmp_path: Path) -> None:
    splits = load(Digits(), tmp_path)
    assert [len(getattr(splits, part)) for part in PARTS] == [913, 128, 256, 500]
    assert splits.evaluation.pixels.shape == (500, 3, 16, 16)
    assert torch.bincount(splits.evaluation.labels).tolist() == [50] * 10
    assert splits.class_names == tuple("0123456789")
    assert check_disjoint({part: pixel_hashes(getattr(splits, part).pixels.numpy()) for part in PARTS}) == ()
    assert {name.partition("/")[0] for name in splits.evaluation.ids} == {"test"}


def test_test_pool_of_digits_does_not_depend_on_the_split_seed(tmp_path: Path) -> None:
    first, second = (load(Digits(split_seed=seed), tmp_path) for seed in (0, 1))
    assert sorted(first.evaluation.ids) == sorted(second.evaluation.ids)
    assert first.craft.ids != second.craft.ids


def test_enlarged_digits_keep_their_range_and_mean(tmp_path: Path) -> None:
    small, large = (load(Digits(image_size=side), tmp_path).evaluation for side in (8, 32))
    assert small.ids == large.ids
    assert int(large.pixels.max()) == 255
    assert torch.allclose(small.pixels.double().mean((1, 2, 3)), large.pixels.double().mean((1, 2, 3)), atol=1.5)


def test_asking_digits_for_too_much_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^digits: .* 512 \+ 2000 = 2512: the train pool has 1297"):
        load(Digits(calibration_images=512, craft_images=2000), tmp_path)


def nearest_mean_accuracy(train: ImageSet, evaluation: ImageSet, classes: int) -> float:
    means = torch.stack([train.pixels[train.labels == c].double().mean(0).flatten() for c in range(classes)])
    guesses = torch.cdist(evaluation.pixels.double().flatten(1), means).argmin(1)
    return (guesses == evaluation.labels).double().mean().item()


def test_fake_classes_are_learnable_and_differ(tmp_path: Path) -> None:
    splits = load(Fake(classes=5, image_size=12), tmp_path)
    assert [len(getattr(splits, part)) for part in PARTS] == [832, 64, 128, 256]
    assert nearest_mean_accuracy(splits.train, splits.evaluation, 5) == 1.0
    assert splits.evaluation.pixels.double().std() > 20


def test_fake_noise_decides_how_hard_it_is(tmp_path: Path) -> None:
    silent = load(Fake(noise=1e-3, image_size=8, classes=2), tmp_path).evaluation
    spread = silent.pixels[silent.labels == 0].double().std(0)
    assert spread.max() < 1
    noisy = load(Fake(noise=0.1, image_size=8, classes=2), tmp_path).evaluation
    assert 15 < noisy.pixels[noisy.labels == 0].double().std(0).mean() < 27  # 0.1 * 255, less what is clipped


def test_fake_follows_its_content_seed(tmp_path: Path) -> None:
    fields = {"image_size": 8, "train_pool": 300, "test_pool": 50}
    same = [load(Fake(**fields), tmp_path / name).fingerprint for name in ("a", "b")]
    assert same[0] == same[1]
    assert load(Fake(**fields, content_seed=1), tmp_path / "a").fingerprint != same[0]


def test_sizes_are_known_without_reading() -> None:
    assert (Digits(image_size=20).num_classes, Digits(image_size=20).side) == (10, 20)
    assert (Fake(classes=3, image_size=9).num_classes, Fake(classes=3, image_size=9).side) == (3, 9)
