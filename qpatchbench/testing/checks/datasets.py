"""Promises of every dataset source, one function each.

Files are looked for in $QPATCHBENCH_DATA.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from qpatchbench.data.base import DatasetSource, Decoding, Splits
from qpatchbench.data.splitting import Keys, check_disjoint, part_fingerprint, pixel_hashes
from qpatchbench.errors import DataError
from qpatchbench.testing.fixtures.once import once
from qpatchbench.testing.require import DoesNotApplyError, fail, no_global_draws, require
from qpatchbench.types import ImageSet

PARTS = ("train", "calibration", "craft", "evaluation")
EVALUATION_IMAGES = 200
LEAST_PER_CLASS = 5  # for which balance can be told
LEAKING = 0.9  # share of the images whose label one pixel may tell


def images_are_well_formed(dataset: DatasetSource, seed: int) -> str:
    """Pixels (N, 3, H, W) uint8 of the declared side, labels int64 of the declared classes, as many names as images."""
    splits = _splits(dataset)
    classes, side = dataset.num_classes, dataset.side
    require(len(splits.class_names) == classes, dataset, f"{classes} class names", len(splits.class_names))
    for name, part in _parts(splits):
        shape = (len(part), 3, side, side)
        require(tuple(part.pixels.shape) == shape, dataset, f"{name} pixels {shape}", tuple(part.pixels.shape))
        require(part.pixels.dtype == torch.uint8, dataset, f"{name} pixels uint8, 0..255", part.pixels.dtype)
        require(part.labels.dtype == torch.int64, dataset, f"{name} labels int64", part.labels.dtype)
        require(len(part.ids) == len(part), dataset, f"{len(part)} ids in {name}", len(part.ids))
        if len(part):
            low, high = int(part.labels.min()), int(part.labels.max())
            inside = low >= 0 and high < classes
            require(inside, dataset, f"{name} labels in 0..{classes - 1}", f"{low}..{high}")
    varied = len(splits.evaluation) < 2 or bool((splits.evaluation.pixels != splits.evaluation.pixels[:1]).any())
    require(varied, dataset, "evaluation images that differ", "one image over and over")
    return ", ".join(f"{len(part)} {name}" for name, part in _parts(splits))


def parts_are_disjoint(dataset: DatasetSource, seed: int) -> None:
    """No image is in two parts, by name or by content: what is measured was never learnt from."""
    splits = _splits(dataset)
    names: dict[str, str] = {}
    for part, images in _parts(splits):
        repeated = len(images.ids) - len(set(images.ids))
        require(not repeated, dataset, f"unique ids in {part}", f"{repeated} repeated")
        for name in images.ids:
            require(name not in names, dataset, "ids in one part only", f"{name} in {names.get(name)} and {part}")
            names[name] = part
    shared = check_disjoint({part: pixel_hashes(images.pixels.numpy()) for part, images in _parts(splits)})
    expected = "no image in two parts; split by a hash of the content, with copies on one side"
    require(not shared, dataset, expected, "; ".join(map(str, shared)))


def classes_are_balanced(dataset: DatasetSource, seed: int) -> str:
    """The evaluation part holds about as many images of every class."""
    labels, classes = _splits(dataset).evaluation.labels, dataset.num_classes
    if len(labels) < LEAST_PER_CLASS * classes:
        raise DoesNotApplyError(f"{len(labels)} evaluation images of {classes} classes are too few to tell")
    counts = torch.bincount(labels, minlength=classes)
    low, high = int(counts.min()), int(counts.max())
    expected = "about as many evaluation images of every class; deal them out class by class"
    require(high <= 1.25 * low + 1, dataset, expected, f"{low} to {high} per class")
    return f"{low} to {high} images per class"


def labels_are_not_in_a_pixel(dataset: DatasetSource, seed: int) -> str:
    """No single value of a pixel tells the label: what a rule learnt from it on half of the images says of the rest."""
    images = _splits(dataset).evaluation
    values, labels = images.pixels.flatten(1).long(), images.labels
    half = len(images) // 2
    if half < LEAST_PER_CLASS * dataset.num_classes:
        raise DoesNotApplyError(f"{len(images)} evaluation images of {dataset.num_classes} classes are too few to tell")
    counts = torch.zeros(values.shape[1], 256, dataset.num_classes)
    place = torch.arange(values.shape[1]).expand(half, -1)
    each = labels[:half, None].expand(-1, values.shape[1])
    counts.index_put_((place, values[:half], each), torch.ones(()), accumulate=True)
    told = counts.argmax(dim=2)[torch.arange(values.shape[1]), values[half:]]
    accuracy = (told == labels[half:, None]).float().mean(dim=0)
    worst = float(accuracy.max())
    where = "channel {}, row {}, column {}".format(*_unravelled(int(accuracy.argmax()), dataset.side))
    expected = f"no pixel that tells the label of more than {LEAKING:.0%} of the images; look for a mark or a border"
    require(worst <= LEAKING, dataset, expected, f"{worst:.0%} told by {where}")
    return f"at most {worst:.0%} told by one pixel ({where})"


def _unravelled(index: int, side: int) -> tuple[int, int, int]:
    return index // side**2, index // side % side, index % side


def it_loads_the_same_twice(dataset: DatasetSource, seed: int) -> None:
    """Another load gives the same images in the same order, and the same fingerprint; no global generator moves."""
    first = _splits(dataset)
    with no_global_draws(dataset, "draw from a numpy or torch generator of your own, seeded by a field"):
        second = dataset.load(_data_folder(), _cache_folder(), Decoding(), EVALUATION_IMAGES)
    for (name, one), (_, other) in zip(_parts(first), _parts(second), strict=True):
        same = one.ids == other.ids and torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)
        require(same, dataset, f"the same {name} images in the same order", "others")
    expected = "the same fingerprint of the same images"
    require(first.fingerprint == second.fingerprint, dataset, expected, f"{first.fingerprint}, {second.fingerprint}")
    require(set(first.fingerprints) == set(PARTS), dataset, f"fingerprints of {', '.join(PARTS)}", first.fingerprints)


def fingerprints_are_of_the_images(dataset: DatasetSource, seed: int) -> None:
    """What identifies a part follows from its images: else results made from other images would be taken for these."""
    splits = _splits(dataset)
    for name, part in _parts(splits):
        pixels = pixel_hashes(part.pixels.numpy())
        own = part_fingerprint(Keys(part.ids, part.labels.tolist(), pixels, pixels))
        expected = f"the fingerprint of the {name} images as they are returned; use data.splitting.part_fingerprint"
        found = splits.fingerprints.get(name)
        require(found == own, dataset, f"{expected}: {own}", found)


def missing_files_are_named(dataset: DatasetSource, seed: int) -> None:
    """Where its files are not there, a `DataError` says where they were looked for."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "nothing"
        empty.mkdir()
        try:
            dataset.load(empty, Path(folder) / "cache", Decoding(), EVALUATION_IMAGES)
        except DataError as error:
            expected = f"an error that names the folder it looked in, {empty}; use data.looking.not_found"
            require(str(empty) in str(error), dataset, expected, error)
            return
        except Exception as error:  # whatever it raises instead is what was found
            fail(dataset, "a DataError where no files are", f"{type(error).__name__}: {error}")
    raise DoesNotApplyError("it needs no files")


def _parts(splits: Splits) -> Iterator[tuple[str, ImageSet]]:
    for name in PARTS:
        yield name, getattr(splits, name)


def _splits(dataset: DatasetSource) -> Splits:
    """The images, loaded once in a row of checks.

    Raises:
        DoesNotApplyError: its files are not there.
    """
    folder = _data_folder()
    try:
        return once(
            "splits", dataset, lambda: dataset.load(folder, _cache_folder(), Decoding(), EVALUATION_IMAGES), folder
        )
    except DataError as error:
        if str(folder) not in str(error):
            raise
        place = folder if "QPATCHBENCH_DATA" in os.environ else "$QPATCHBENCH_DATA, which is not set"
        raise DoesNotApplyError(f"files not found at {place}") from None


def _data_folder() -> Path:
    return Path(os.environ.get("QPATCHBENCH_DATA") or _cache_folder() / "data")


@functools.cache
def _cache_folder() -> Path:
    """A folder that goes with the process: what is checked must not be found in the user's cache."""
    folder = Path(tempfile.mkdtemp(prefix="qpatchbench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


CHECKS: tuple[Callable[[DatasetSource, int], str | None], ...] = (
    images_are_well_formed,
    parts_are_disjoint,
    classes_are_balanced,
    labels_are_not_in_a_pixel,
    it_loads_the_same_twice,
    fingerprints_are_of_the_images,
    missing_files_are_named,
)
