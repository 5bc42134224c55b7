"""The cache of decoded images and the fingerprint: hits, damage, refusals, and what they depend on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qpatchbench.data import folders
from qpatchbench.data.base import DatasetSource, Decoding, Splits
from qpatchbench.data.digits import Digits
from qpatchbench.data.fake import Fake
from qpatchbench.data.imagenet import ImageFolder
from qpatchbench.data.source import cached_fingerprint, cached_fingerprints, identified
from qpatchbench.errors import DataError, StorageError

DECODING = Decoding()
SOURCE = ImageFolder(path="pets", classes=2, image_size=8, calibration_images=2, craft_images=2)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for pool, seed in (("train", 0), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            generator = np.random.default_rng([seed, label])
            folder = tmp_path / "data" / "pets" / pool / name
            folder.mkdir(parents=True)
            for index in range(4):
                write_image(folder / f"{index}.png", generator)
    return tmp_path / "data"


def write_image(path: Path, generator: np.random.Generator) -> None:
    Image.fromarray(generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)


def load(data_dir: Path, cache_dir: Path, source: DatasetSource = SOURCE, evaluation: int = 100) -> Splits:
    return source.load(data_dir, cache_dir, DECODING, evaluation)


def assert_equal(first: Splits, second: Splits) -> None:
    assert first.fingerprint == second.fingerprint
    assert first.class_names == second.class_names
    for part in ("train", "calibration", "craft", "evaluation"):
        one, two = getattr(first, part), getattr(second, part)
        assert one.ids == two.ids
        assert torch.equal(one.pixels, two.pixels)
        assert torch.equal(one.labels, two.labels)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded an image")

    monkeypatch.setattr(folders, "decode_image", fail)


def only_cache(cache_dir: Path) -> Path:
    (folder,) = (cache_dir / "datasets").iterdir()
    return folder


def test_second_load_decodes_nothing_and_gives_the_same(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(data_dir, tmp_path / "cache")
    forbid_decoding(monkeypatch)
    assert_equal(load(data_dir, tmp_path / "cache"), first)
    assert first.evaluation.pixels.dtype == torch.uint8
    assert [len(p) for p in (first.train, first.calibration, first.craft, first.evaluation)] == [4, 2, 2, 8]


def test_another_split_reuses_the_decoded_images(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(data_dir, tmp_path / "cache")
    forbid_decoding(monkeypatch)
    other = load(data_dir, tmp_path / "cache", SOURCE.model_copy(update={"split_seed": 1}))
    assert sorted(other.evaluation.ids) == sorted(first.evaluation.ids)
    assert other.fingerprint != first.fingerprint
    assert len(load(data_dir, tmp_path / "cache", evaluation=3).evaluation) == 3


def test_moved_data_is_still_cached(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(data_dir, tmp_path / "cache")
    data_dir.rename(tmp_path / "moved")
    forbid_decoding(monkeypatch)
    assert_equal(load(tmp_path / "moved", tmp_path / "cache"), first)


@pytest.mark.parametrize("damage", ["flip", "cut", "no meta", "meta is no JSON", "no tensors"])
def test_damaged_cache_is_rebuilt(damage: str, data_dir: Path, tmp_path: Path) -> None:
    first = load(data_dir, tmp_path / "cache")
    folder = only_cache(tmp_path / "cache")
    tensors, meta = folder / "images.safetensors", folder / "meta.json"
    intact = tensors.read_bytes()
    if damage == "flip":
        tensors.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    elif damage == "cut":
        tensors.write_bytes(intact[:-1])
    elif damage == "no meta":
        meta.unlink()
    elif damage == "meta is no JSON":
        meta.write_text("{")
    else:
        tensors.unlink()
    seen_as = cached_fingerprint(SOURCE, data_dir, tmp_path / "cache", DECODING, 100)
    # A flipped bit cannot be seen without reading the images; every other damage is.
    assert seen_as == (first.fingerprint if damage == "flip" else None)
    assert_equal(load(data_dir, tmp_path / "cache"), first)
    assert tensors.read_bytes() == intact
    assert json.loads(meta.read_text())["size"] == len(intact)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_fingerprint_follows_the_content_and_nothing_else(data_dir: Path, tmp_path: Path) -> None:
    first = load(data_dir, tmp_path / "cache")
    image = data_dir / "pets" / "val" / "cat" / "0.png"
    os.utime(image, ns=(1, 1))
    assert load(data_dir, tmp_path / "cache").fingerprint == first.fingerprint
    assert load(data_dir, tmp_path / "elsewhere").fingerprint == first.fingerprint

    write_image(image, np.random.default_rng(99))
    changed = load(data_dir, tmp_path / "cache")
    assert changed.fingerprint != first.fingerprint
    image.rename(image.with_name("renamed.png"))
    assert load(data_dir, tmp_path / "cache").fingerprint not in {first.fingerprint, changed.fingerprint}


def test_decoding_changes_pixels_but_not_the_split(data_dir: Path, tmp_path: Path) -> None:
    first = load(data_dir, tmp_path / "cache")
    other = SOURCE.load(data_dir, tmp_path / "cache", Decoding(1.0, "bicubic"), 100)
    assert other.fingerprint != first.fingerprint
    for part in ("train", "calibration", "craft", "evaluation"):
        assert getattr(other, part).ids == getattr(first, part).ids
    pinned = SOURCE.model_copy(update={"crop_fraction": 1.0, "interpolation": "bicubic"})
    assert_equal(load(data_dir, tmp_path / "cache", pinned), other)


def test_each_part_has_a_fingerprint_of_its_own(data_dir: Path, tmp_path: Path) -> None:
    first = load(data_dir, tmp_path / "cache").fingerprints
    fewer_evaluated = load(data_dir, tmp_path / "cache", evaluation=3).fingerprints
    less_trained = load(data_dir, tmp_path / "cache", SOURCE.model_copy(update={"train_images": 2})).fingerprints
    assert {part for part in first if first[part] != fewer_evaluated[part]} == {"evaluation"}
    assert {part for part in first if first[part] != less_trained[part]} == {"train"}
    assert len(set(first.values())) == len(first) == 4


@pytest.mark.parametrize("source", [SOURCE, Digits(), Fake(image_size=8)], ids=lambda source: str(source.name))
def test_cached_fingerprint_is_that_of_load(
    source: DatasetSource, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert cached_fingerprint(source, data_dir, cache, DECODING, 10) is None
    splits = load(data_dir, cache, source, 10)
    forbid_decoding(monkeypatch)
    monkeypatch.setattr("qpatchbench.data.source.read_pools", None)  # reading images would call it
    assert cached_fingerprint(source, data_dir, cache, DECODING, 10) == splits.fingerprint
    assert cached_fingerprints(source, data_dir, cache, DECODING, 10) == splits.fingerprints
    assert cached_fingerprint(source, data_dir, cache, DECODING, 9) is None
    reseeded = source.model_copy(update={"split_seed": 5})
    assert cached_fingerprint(reseeded, data_dir, cache, DECODING, 10) is None


def test_cached_fingerprint_never_raises(data_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(data_dir, cache)
    assert cached_fingerprint(SOURCE, tmp_path / "nowhere", cache, DECODING, 100) is None
    (record,) = (only_cache(cache) / "splits").iterdir()
    for content in ("", "[]", "{}", '{"train": 3, "calibration": 3, "craft": 3, "evaluation": 3}'):
        record.write_text(content)
        assert cached_fingerprint(SOURCE, data_dir, cache, DECODING, 100) is None
    assert cached_fingerprint(SOURCE, data_dir, cache, DECODING, 100) is None
    load(data_dir, cache)
    assert cached_fingerprint(SOURCE, data_dir, cache, DECODING, 100) is not None


def test_cached_fingerprint_of_a_foreign_dataset_is_unknown(tmp_path: Path) -> None:
    class Foreign(DatasetSource):
        name: str = "foreign"

        @property
        def num_classes(self) -> int:
            return 2

        @property
        def side(self) -> int:
            return 8

        def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
            raise DataError("never")

    assert cached_fingerprint(Foreign(), tmp_path, tmp_path, DECODING, 1) is None


def test_unwritable_cache_is_a_storage_error(data_dir: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"cannot write the image cache .*images.safetensors"):
        load(data_dir, blocked)


def test_interrupted_write_leaves_no_cache(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("qpatchbench.runs.files.os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            load(data_dir, tmp_path / "cache")
    assert list(only_cache(tmp_path / "cache").iterdir()) == []
    assert len(load(data_dir, tmp_path / "cache").evaluation) == 8


def twin(data_dir: Path, other: Path, seed: int) -> Path:
    """A copy of the folder whose files have the same names, sizes and times, and other pixels."""
    generator = np.random.default_rng(seed)
    for file in sorted(data_dir.rglob("*.bmp")):
        copy = other / file.relative_to(data_dir)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_bitmap(copy, generator)
        status = file.stat()
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (copy.stat().st_size, copy.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return other


def write_bitmap(path: Path, generator: np.random.Generator) -> None:
    Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    generator = np.random.default_rng(5)
    for pool in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "bitmaps" / "pets" / pool / name).mkdir(parents=True)
            for index in range(4):
                write_bitmap(tmp_path / "bitmaps" / "pets" / pool / name / f"{index}.bmp", generator)
    return tmp_path / "bitmaps"


def test_two_folders_that_agree_in_names_sizes_and_times_are_two(bitmaps: Path, tmp_path: Path) -> None:
    first = load(bitmaps, tmp_path / "cache")
    other = twin(bitmaps, tmp_path / "other", 1)
    assert cached_fingerprint(SOURCE, other, tmp_path / "cache", DECODING, 100) is None
    second = load(other, tmp_path / "cache")
    assert second.fingerprint != first.fingerprint
    assert second.fingerprint == load(other, tmp_path / "fresh").fingerprint


def test_a_file_rewritten_under_its_old_time_is_read_again(bitmaps: Path, tmp_path: Path) -> None:
    first = load(bitmaps, tmp_path / "cache")
    file = bitmaps / "pets" / "val" / "cat" / "0.bmp"
    status = file.stat()
    write_bitmap(file, np.random.default_rng(77))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (status.st_ino, status.st_size)
    assert load(bitmaps, tmp_path / "cache").fingerprint != first.fingerprint


def test_a_file_exchanged_for_another_of_its_size_and_time_is_read_again(bitmaps: Path, tmp_path: Path) -> None:
    first = load(bitmaps, tmp_path / "cache")
    cat, dog = bitmaps / "pets" / "val" / "cat" / "0.bmp", bitmaps / "pets" / "val" / "dog" / "0.bmp"
    os.utime(dog, ns=(cat.stat().st_atime_ns, cat.stat().st_mtime_ns))
    load(bitmaps, tmp_path / "cache")
    cat.rename(tmp_path / "kept")
    dog.rename(cat)
    (tmp_path / "kept").rename(dog)
    assert load(bitmaps, tmp_path / "cache").fingerprint != first.fingerprint


@pytest.mark.parametrize("edit", ["class names", "ids", "fingerprint", "other split"])
def test_edited_records_of_the_cache_are_not_believed(edit: str, data_dir: Path, tmp_path: Path) -> None:
    first = load(data_dir, tmp_path / "cache")
    folder = only_cache(tmp_path / "cache")
    meta, (split,) = folder / "meta.json", (folder / "splits").iterdir()
    if edit == "class names":
        meta.write_text(meta.read_text().replace('["cat", "dog"]', '["dog", "cat"]'))
    elif edit == "ids":
        meta.write_text(meta.read_text().replace("val/cat/0.png", "val/cat/9.png"))
    elif edit == "fingerprint":
        split.write_text(split.read_text().replace(first.fingerprints["train"], "0" * 32))
    else:
        load(data_dir, tmp_path / "cache", evaluation=3)
        other = next(path for path in (folder / "splits").iterdir() if path != split)
        split.write_text(other.read_text())
    assert cached_fingerprint(SOURCE, data_dir, tmp_path / "cache", DECODING, 100) is None
    assert_equal(load(data_dir, tmp_path / "cache"), first)
    assert cached_fingerprint(SOURCE, data_dir, tmp_path / "cache", DECODING, 100) == first.fingerprint


def test_hashes_of_a_source_from_outside_are_taken_anew(data_dir: Path, tmp_path: Path) -> None:
    """A plugin may call other images by the same hashes; they are known by their pixels all the same."""
    first = load(data_dir, tmp_path / "cache")
    said = replace(first, fingerprints=dict.fromkeys(first.fingerprints, "v1"))
    assert identified(said).fingerprints == first.fingerprints
    pixels = first.evaluation.pixels.clone()
    pixels[3, 0, 0, 0] ^= 1
    other = identified(replace(said, evaluation=replace(first.evaluation, pixels=pixels)))
    assert {part for part, each in other.fingerprints.items() if each != first.fingerprints[part]} == {"evaluation"}


@pytest.mark.parametrize(
    "source", [Fake(train_pool=10**9, image_size=4096), Digits(image_size=10**6)], ids=["fake", "digits"]
)
def test_more_images_than_memory_are_refused_before_any_is_made(source: DatasetSource, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"images of \d+x\d+ pixels take [\d.]+ GB, this machine has [\d.]+ GB. Ask for"
    ):
        load(tmp_path, tmp_path / "cache", source)
