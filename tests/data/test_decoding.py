"""Decoding image files: torchvision as the independent reference, and error messages."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import InterpolationMode

from qpatchbench.data.fitting import exactly, resized_and_cropped
from qpatchbench.data.folders import (
    class_folders,
    decode_files,
    decode_image,
    file_listing,
    list_images,
    match_classes,
)
from qpatchbench.errors import DataError


def png(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (32, 32), (33, 100), (20, 25)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_fraction", [0.875, 0.9, 1.0])
def test_resize_and_crop_are_torchvisions(size: tuple[int, int], interpolation: str, crop_fraction: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    reference = transforms.Compose(
        [
            transforms.Resize(math.floor(28 / crop_fraction), InterpolationMode(interpolation)),
            transforms.CenterCrop(28),
        ]
    )
    expected = np.asarray(reference(Image.fromarray(pixels))).transpose(2, 0, 1)
    found = decode_image(png(pixels), resized_and_cropped(28, crop_fraction, interpolation))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("fraction", "interpolation", "message"),
    [
        (0.9, "bicubik", r"unknown interpolation 'bicubik' for image files. Did you mean: bicubic\?"),
        (0.0, "bilinear", r"expected a crop_fraction in \(0, 1\], found 0.0"),
    ],
)
def test_impossible_decoding_is_an_error(fraction: float, interpolation: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resized_and_cropped(28, fraction, interpolation)


def test_decoding_keeps_rows_columns_and_channels_in_place() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[1, 2] = (10, 20, 30)
    found = decode_image(png(pixels), exactly(4))
    assert found.shape == (3, 4, 4)
    assert found[:, 1, 2].tolist() == [10, 20, 30]
    assert found.sum() == 60


def write_classes(root: Path, counts: dict[str, int]) -> None:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png(np.full((4, 4, 3), 20 * number + i, dtype=np.uint8)))


def test_files_are_decoded_in_the_order_of_the_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"b": 2, "a": 1})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    pool = decode_files("x", list_images("x", tmp_path, "train", ["b", "a"]), 4, exactly(4))
    assert pool.images.ids == ("train/b/0.png", "train/b/1.png", "train/a/0.png")
    assert pool.images.labels.tolist() == [0, 0, 1]
    assert pool.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 20]


def test_more_files_than_one_chunk_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpatchbench.data.folders.CHUNK", 3)
    write_classes(tmp_path, {"a": 10, "b": 10})
    pool = decode_files("x", list_images("x", tmp_path, "p", ["a", "b"]), 4, exactly(4))
    assert pool.images.pixels[:, 0, 0, 0].tolist() == [*range(10), *range(20, 30)]
    assert len({bytes(row) for row in pool.content.numpy()}) == 20


def test_images_per_class_is_a_stable_choice(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 9})
    few = [file.id for file in list_images("x", tmp_path, "p", ["a"], images_per_class=3)]
    more = [file.id for file in list_images("x", tmp_path, "p", ["a"], images_per_class=5)]
    assert len(few) == 3
    assert set(few) < set(more)
    assert few == sorted(few)


def test_broken_and_wrongly_sized_images_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2})
    files = list_images("cats", tmp_path, "p", ["a"])
    with pytest.raises(DataError, match=r"cats: cannot read the image .*a/0.png: expected 5x5 pixels, found 4x4"):
        decode_files("cats", files, 5, exactly(5))
    (tmp_path / "a" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"cats: cannot read the image .*a/1.png: cannot identify"):
        decode_files("cats", files, 4, exactly(4))
    truncated = (tmp_path / "a" / "0.png").read_bytes()[:-30]
    (tmp_path / "a" / "1.png").write_bytes(truncated)
    with pytest.raises(DataError, match=r"a/1.png"):
        decode_files("cats", files, 4, exactly(4))


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 1})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    files = list_images("cats", tmp_path, "p", ["a"])
    with pytest.raises(DataError, match=r"cats: cannot read the image .*a/gone.png: No such file"):
        file_listing("cats", files)
    with pytest.raises(DataError, match=r"cats: cannot read the image .*a/gone.png: .*No such file"):
        decode_files("cats", files, 4, exactly(4))


def test_class_without_images_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 1, "b": 0})
    with pytest.raises(DataError, match=r"cats: expected images \(.bmp, .*\) in .*/b, found none"):
        list_images("cats", tmp_path, "p", ["a", "b"])


def test_missing_and_unknown_class_folders_are_named_with_the_nearest(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 1, "dogs": 1, ".git": 0})
    with pytest.raises(DataError) as caught:
        match_classes("pets", tmp_path, ["cat", "dog"])
    assert str(caught.value).splitlines() == [
        f"pets: {tmp_path} does not hold its 2 classes:",
        "unknown class folder 'dogs'. Did you mean: dog? Available: cat, dog.",
        "missing class folder 'dog'. Is it the folder dogs?",
    ]
    match_classes("pets", tmp_path, ["dogs", "cat"])


def test_class_folders_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert class_folders(tmp_path / "nowhere") == []
