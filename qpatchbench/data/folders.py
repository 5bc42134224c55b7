"""Images in class folders: listing, matching folder names to classes, decoding in threads."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qpatchbench.data.cache import Pool, make_pool
from qpatchbench.data.splitting import content_hash
from qpatchbench.errors import DataError, suggestion

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Decoding a small image holds the interpreter lock for most of its time; long chunks keep threads from
# fighting over it (2 cores, 32x32 JPEG: 4,900 images/s one by one, 7,000 in chunks).
CHUNK = 200

# From an RGB image of any size to one of the dataset's side.
Fit: TypeAlias = "Callable[[Image], Image]"


@dataclass(frozen=True)
class ClassFile:
    """One image file; `id` is "<pool>/<class>/<file>"."""

    path: str
    label: int
    id: str


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def match_classes(dataset: str, folder: Path, class_names: Sequence[str]) -> None:
    """Check that `folder` holds one folder for every class and no other.

    Raises:
        DataError: names every unknown and every missing folder, and the nearest name.
    """
    found = class_folders(folder)
    unknown = sorted(set(found) - set(class_names))
    missing = sorted(set(class_names) - set(found))
    problems = [f"unknown class folder {name!r}.{suggestion(name, class_names)}" for name in unknown]
    # A folder that is some class's own cannot be the misspelt one.
    problems += [f"missing class folder {name!r}.{_nearest(name, unknown)}" for name in missing]
    if problems:
        raise DataError(f"{dataset}: {folder} does not hold its {len(class_names)} classes:\n" + "\n".join(problems))


def list_images(
    dataset: str, folder: Path, pool: str, class_names: Sequence[str], images_per_class: int | None = None
) -> list[ClassFile]:
    """Image files of every class folder, class by class in the order of `class_names`.

    Args:
        dataset: name for messages.
        folder: holds the class folders.
        pool: first part of the ids.
        class_names: K folder names in label order.
        images_per_class: keep at most this many, chosen by the hash of the file name.

    Raises:
        DataError: a class folder holds no image.
    """
    files: list[ClassFile] = []
    for label, class_name in enumerate(class_names):
        names = _image_names(folder / class_name)
        if not names:
            raise DataError(
                f"{dataset}: expected images ({', '.join(sorted(SUFFIXES))}) in {folder / class_name}, found none"
            )
        if images_per_class is not None:
            names = sorted(names, key=_name_hash)[:images_per_class]
        files += [
            ClassFile(os.path.join(folder, class_name, name), label, f"{pool}/{class_name}/{name}")
            for name in sorted(names)
        ]
    return files


def file_listing(dataset: str, files: Iterable[ClassFile]) -> tuple[str, ...]:
    """One line per file: id, size and modification time.

    Raises:
        DataError: a file cannot be looked at, for example a link to nowhere.
    """
    lines = []
    for file in files:
        try:
            status = os.stat(file.path)
        except OSError as error:
            raise DataError(f"{dataset}: cannot read the image {file.path}: {error.strerror}") from error
        lines.append(f"{file.id}\t{status.st_size}\t{status.st_mtime_ns}")
    return tuple(lines)


def decode_files(dataset: str, files: Sequence[ClassFile], side: int, fit: Fit) -> Pool:
    """Read and decode all files.

    Args:
        dataset: name for messages.
        files: at least one.
        side: height and width that `fit` makes, pixels.
        fit: brings an image to that size.

    Raises:
        DataError: a file is no image, or `fit` refuses it; names the file.
    """
    import numpy as np

    pixels = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode_chunk(start: int) -> list[bytes]:
        hashes = []
        for index in range(start, min(start + CHUNK, len(files))):
            try:
                data = Path(files[index].path).read_bytes()
                pixels[index] = decode_image(data, fit)
            except Exception as error:  # Pillow's decoders raise many kinds; all mean this file
                raise DataError(f"{dataset}: cannot read the image {files[index].path}: {error}") from error
            hashes.append(content_hash(data))
        return hashes

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        chunks = list(threads.map(decode_chunk, range(0, len(files), CHUNK)))
    content = [digest for chunk in chunks for digest in chunk]
    return make_pool(pixels, [file.label for file in files], [file.id for file in files], content)


def decode_image(data: bytes, fit: Fit) -> np.ndarray[Any, Any]:
    """Bytes of an image file -> (3, H, W) uint8, RGB."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(fit(image.convert("RGB"))).transpose(2, 0, 1)


def exactly(side: int) -> Fit:
    """A fit that refuses every image that is not side x side."""

    def fit(image: Image) -> Image:
        if image.size != (side, side):
            raise ValueError(f"expected {side}x{side} pixels, found {image.width}x{image.height}")
        return image

    return fit


def resized_and_cropped(side: int, crop_fraction: float, interpolation: str) -> Fit:
    """A fit that resizes the shorter side to floor(side / crop_fraction), then crops the centre.

    Rounds as torchvision's Resize and CenterCrop do with timm's evaluation sizes, so that pretrained
    networks see the pixels they were evaluated on.
    """
    from PIL.Image import Resampling

    filters = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
    if interpolation not in filters:
        raise DataError(f"unknown interpolation {interpolation!r} for image files.{suggestion(interpolation, filters)}")
    if not 0 < crop_fraction <= 1:
        raise DataError(f"expected a crop_fraction in (0, 1], found {crop_fraction}")
    short = math.floor(side / crop_fraction)

    def fit(image: Image) -> Image:
        width, height = image.size
        tall = width <= height
        size = (short, int(short * height / width)) if tall else (int(short * width / height), short)
        if size != image.size:
            image = image.resize(size, filters[interpolation])
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        return image.crop((left, top, left + side, top + side))

    return fit


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in SUFFIXES
        ]


def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()


def _nearest(name: str, choices: Sequence[str]) -> str:
    hint, _, _ = suggestion(name, choices).partition(" Available:")
    return hint.replace("Did you mean:", "Is it the folder") if choices else ""
