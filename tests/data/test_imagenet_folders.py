"""ImageNet and folders of one's own, from tiny made-up trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from qpatchbench.data.base import Decoding, Splits, Survey
from qpatchbench.data.folders import class_folders
from qpatchbench.data.imagenet import ImageFolder, ImageNet
from qpatchbench.errors import DataError

WNIDS = [f"n{number:08d}" for number in range(1000)]
DECODING = Decoding(1.0, "bilinear")


def write_tree(root: Path, classes: list[str], images: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(images):
            pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{index}.bmp")


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_tree(root / "imagenet-sample", WNIDS[::-1], 1, 0)
    return root


def load(source: ImageNet | ImageFolder, data_dir: Path, cache: Path, evaluation: int = 10_000) -> Splits:
    return source.load(data_dir, cache, DECODING, evaluation)


def small(**fields: int) -> ImageNet:
    return ImageNet(image_size=4, **{"calibration_images": 100, "craft_images": 300, **fields})


def test_one_folder_with_one_image_per_class(one_folder: Path, tmp_path: Path) -> None:
    splits = load(small(), one_folder, tmp_path)
    parts = (splits.train, splits.calibration, splits.craft, splits.evaluation)
    assert [len(part) for part in parts] == [0, 100, 300, 600]
    labels = [label for part in parts for label in part.labels.tolist()]
    assert sorted(labels) == list(range(1000))
    assert splits.class_names == tuple(WNIDS)
    for name, label in zip(splits.evaluation.ids, splits.evaluation.labels.tolist(), strict=True):
        assert name == f"all/{WNIDS[label]}/{WNIDS[label]}_0.bmp"
    file = one_folder / "imagenet-sample" / splits.craft.ids[0].removeprefix("all/")
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert (splits.craft.pixels[0].numpy() == expected).all()
    assert load(small(), one_folder / "imagenet-sample", tmp_path).fingerprint == splits.fingerprint


def test_one_folder_is_too_small_for_the_defaults(one_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at most 999 .* found 512 \+ 2000 = 2512: the only pool"):
        load(ImageNet(image_size=4), one_folder, tmp_path)


def test_standard_layout_and_its_limit_per_class(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet" / "train", WNIDS, 2, 1)
    write_tree(tmp_path / "imagenet" / "val", WNIDS, 1, 2)
    splits = load(small(), tmp_path, tmp_path / "cache")
    assert [len(p) for p in (splits.train, splits.calibration, splits.craft, splits.evaluation)] == [
        1600,
        100,
        300,
        1000,
    ]
    assert splits.evaluation.ids[0].startswith("val/n")
    assert splits.train.ids[0].startswith("train/n")
    assert len(load(small(images_per_class=1), tmp_path, tmp_path / "cache").train) == 600

    (tmp_path / "imagenet" / "train").rename(tmp_path / "other")
    lone = load(small(), tmp_path, tmp_path / "cache")
    assert (len(lone.train), len(lone.evaluation)) == (0, 600)

    shutil.move(tmp_path / "other", tmp_path / "imagenet" / "train")
    (tmp_path / "imagenet" / "train" / WNIDS[5]).rename(tmp_path / "imagenet" / "train" / "n99999999")
    with pytest.raises(DataError, match=rf"(?s)unknown class folder 'n99999999'.*missing class folder '{WNIDS[5]}'"):
        load(small(), tmp_path, tmp_path / "cache")


def test_wrong_number_of_wnids_is_counted(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet", WNIDS[:3], 1, 0)
    (tmp_path / "imagenet" / "notes").mkdir()
    with pytest.raises(DataError, match=r"imagenet: expected 1000 class folders in .*/imagenet, found 3 \(n0000"):
        load(small(), tmp_path, tmp_path / "cache")


def test_absent_imagenet_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "imagenet-empty").mkdir()
    with pytest.raises(DataError) as caught:
        load(small(), tmp_path, tmp_path / "cache")
    message = str(caught.value)
    for place in (tmp_path, tmp_path / "imagenet", tmp_path / "imagenet-empty", tmp_path / "imagenet-*"):
        assert f"\n  {place}\n" in message
    assert "Expected: train/<wnid>/<image> and val/<wnid>/<image>, or one folder of <wnid>/<image>." in message
    assert "--data-dir" in message
    assert "QPATCHBENCH_DATA" in message
    assert "download" not in message


@pytest.mark.parametrize("test", ["val", "test"])
def test_own_folders_relative_and_absolute(test: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "pets" / "train", ["dog", "cat"], 5, 1)
    write_tree(tmp_path / "pets" / test, ["cat", "dog"], 3, 2)
    fields = {"classes": 2, "image_size": 4, "calibration_images": 2, "craft_images": 4}
    splits = load(ImageFolder(path="pets", **fields), tmp_path, tmp_path / "cache")
    assert splits.class_names == ("cat", "dog")
    assert [len(p) for p in (splits.train, splits.calibration, splits.craft, splits.evaluation)] == [4, 2, 4, 6]
    assert all(
        (f"{test}/cat/" in n) == (y == 0) for n, y in zip(splits.evaluation.ids, splits.evaluation.labels, strict=True)
    )
    absolute = ImageFolder(path=str(tmp_path / "pets"), **fields)
    assert load(absolute, tmp_path / "nowhere", tmp_path / "cache").fingerprint == splits.fingerprint
    assert (absolute.num_classes, absolute.side) == (2, 4)


def test_own_folders_with_another_number_of_classes(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", ["dog", "cat"], 5, 1)
    with pytest.raises(DataError, match=r"imagefolder: expected 3 class folders in .*/pets, found 2 \(cat, dog, ...\)"):
        load(ImageFolder(path="pets", classes=3), tmp_path, tmp_path / "cache")


def test_absent_own_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"(?s)^imagefolder: the dataset is not there. Looked for:\n  {tmp_path}/pats\n"
    ):
        load(ImageFolder(path="pats", classes=2), tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("field", ["crop_fraction", "interpolation", "images_per_class"])
def test_impossible_fields_are_refused(field: str) -> None:
    wrong = {"crop_fraction": 1.5, "interpolation": "nearest", "images_per_class": 0}[field]
    with pytest.raises(ValidationError, match=field):
        ImageNet.model_validate({field: wrong})


NUMBERED = {"classes": 12, "image_size": 4, "calibration_images": 1, "craft_images": 1}


def test_numbered_classes_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    write_tree(tmp_path / "digits", names, 1, 0)
    splits = load(ImageFolder(path="digits", **NUMBERED), tmp_path, tmp_path / "cache")
    assert splits.class_names == tuple(names)
    for name, label in zip(splits.evaluation.ids, splits.evaluation.labels.tolist(), strict=True):
        assert name.split("/")[1] == str(label), "class 2 is the folder 2, not 10"


def test_mixed_names_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("b", "class 10", "class 2", "10", "9", "010", "é"):
        (tmp_path / name).mkdir()
    assert class_folders(tmp_path) == ["9", "010", "10", "b", "class 2", "class 10", "é"]


def test_the_order_of_classes_can_be_given(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets" / "train", ["cat", "dog"], 5, 1)
    write_tree(tmp_path / "pets" / "val", ["cat", "dog"], 3, 2)
    fields = {"path": "pets", "classes": 2, "image_size": 4, "calibration_images": 2, "craft_images": 4}
    first = load(ImageFolder(**fields), tmp_path, tmp_path / "cache")
    source = ImageFolder(class_order=("dog", "cat"), **fields)
    given = load(source, tmp_path, tmp_path / "cache")
    assert given.class_names == ("dog", "cat")
    labels = dict(zip(first.evaluation.ids, first.evaluation.labels.tolist(), strict=True))
    assert {name: 1 - label for name, label in labels.items()} == dict(
        zip(given.evaluation.ids, given.evaluation.labels.tolist(), strict=True)
    )
    assert source.survey(tmp_path) == Survey(("dog", "cat"))
    with pytest.raises(DataError, match=r"unknown class folder 'dog'.*\n.*missing class folder 'dogs'"):
        load(ImageFolder(class_order=("dogs", "cat"), **fields), tmp_path, tmp_path / "cache")
    for order in (("cat", "cat"), ("cat", "dog", "cow")):
        with pytest.raises(ValidationError, match="expected 2 different names of class folders"):
            ImageFolder(class_order=order, **fields)


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", ["cat", "dog"], 5, 1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pets" / "cat" / "x.ppm")
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/notes.txt", "dog/.hidden.png", "dog/noending", "readme.md"):
        (tmp_path / "pets" / name).write_text("")
    (tmp_path / "pets" / "dog" / "more").mkdir()
    source = ImageFolder(path="pets", classes=2, image_size=4, calibration_images=2, craft_images=4)
    splits = load(source, tmp_path, tmp_path / "cache")
    ids = [name for part in (splits.calibration, splits.craft, splits.evaluation) for name in part.ids]
    assert "all/cat/x.ppm" in ids
    assert len(ids) == 11
    assert source.survey(tmp_path).remarks == (
        f"imagefolder: not read in {tmp_path}/pets, since only images directly in class folders are: "
        "2 .heic, 1 .md, 1 .txt, 1 file without an ending, 1 folder, 1 hidden file",
    )


@pytest.mark.parametrize("name", ["=1+1", "-cat", "_x", "a\nb", "a\x1b[2J", "a ![x](y)", "a<b", "caf\udce9"])
def test_class_folders_that_no_table_can_show_are_refused(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", ["cat", name], 5, 1)
    with pytest.raises(DataError) as caught:
        load(ImageFolder(path="pets", classes=2), tmp_path, tmp_path / "cache")
    assert str(caught.value) == (
        f"imagefolder: {tmp_path}/pets: class folder {ascii(name)}: expected as its name printable text on one line, "
        "of at most 100 characters, that starts with a letter or a digit and holds no image, link or tag; rename it"
    )


@pytest.mark.parametrize("name", ["a\nb.bmp", "a\x1b[2J.bmp", "caf\udce9.bmp", "\u202egnp.bmp"])
def test_file_names_that_no_terminal_can_show_are_refused(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", ["cat", "dog"], 5, 1)
    (tmp_path / "pets" / "cat" / "cat_0.bmp").rename(tmp_path / "pets" / "cat" / name)
    with pytest.raises(DataError) as caught:
        load(ImageFolder(path="pets", classes=2), tmp_path, tmp_path / "cache")
    assert str(caught.value) == (
        f"imagefolder: {tmp_path}/pets/cat: expected file names of printable characters, found {ascii(name)}; rename it"
    )


def test_a_third_part_is_said_not_to_be_read(tmp_path: Path) -> None:
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_tree(tmp_path / "pets" / part, ["cat", "dog"], 5, seed)
    source = ImageFolder(path="pets", classes=2, image_size=4, calibration_images=2, craft_images=4)
    assert source.survey(tmp_path).remarks == (f"imagefolder: read in {tmp_path}/pets: train and val; not read: test",)


def test_a_path_that_no_system_has_is_an_error_of_the_dataset(tmp_path: Path) -> None:
    source = ImageFolder(path="x" * 5000, classes=2)
    for ask in (source.survey, lambda folder: load(source, folder, tmp_path / "cache")):
        with pytest.raises(DataError, match=r"^imagefolder: cannot look for its images below .*File name too long"):
            ask(tmp_path)
    with pytest.raises(ValidationError, match="expected printable text on one line, found 'a.x00b'"):
        ImageFolder(path="a\0b", classes=2)
