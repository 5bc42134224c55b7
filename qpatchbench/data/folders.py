"""Images in class folders: listing, matching folder names to classes, decoding in threads."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.data.cache import Pool, expect_memory, make_pool
from qpatchbench.data.fitting import Fit
from qpatchbench.data.pictures import MOST_BYTES, SUFFIXES, opened
from qpatchbench.data.splitting import content_hash
from qpatchbench.errors import DataError, suggestion
from qpatchbench.labels import EXPECTED, is_label, is_printable, shown
from qpatchbench.runs.reading import expect_regular, identity_of, read_whole

if TYPE_CHECKING:
    import numpy as np

# Decoding a small image holds the interpreter lock for most of its time; long chunks keep threads from
# fighting over it (2 cores, 32x32 JPEG: 4,900 images/s one by one, 7,000 in chunks).
CHUNK = 200


@dataclass(frozen=True)
class ClassFile:
    """One image file; `id` is "<pool>/<class>/<file>"."""

    path: str
    label: int
    id: str


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` in natural order, hidden ones left out; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(names, key=natural)


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which numbers come in the order of their values.

    >>> sorted(["10", "2", "b", "a12", "a3"], key=natural)
    ['2', '10', 'a3', 'a12', 'b']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def skipped(folder: Path, class_names: Sequence[str]) -> Counter[str]:
    """What lies in `folder` and its class folders and is not read, by the ending of its name; hidden files apart."""
    found: Counter[str] = Counter()
    for place in (folder, *(folder / name for name in class_names)):
        with os.scandir(place) as entries:
            for entry in entries:
                if place == folder and entry.name in class_names:
                    continue
                if entry.is_dir():
                    found["folder"] += 1
                elif entry.name.startswith("."):
                    found["hidden file"] += 1
                elif place == folder or not _is_image(entry.name):
                    found[shown(os.path.splitext(entry.name)[1].lower()) or "file without an ending"] += 1
    return found


def skipped_text(dataset: str, folder: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """One line for people about what `skipped` finds; none where everything is read."""
    counts = skipped(folder, class_names)
    if not counts:
        return ()
    listed = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    return (f"{dataset}: not read in {folder}, since only images directly in class folders are: {listed}",)


def expect_labels(dataset: str, folder: Path, class_names: Iterable[str]) -> None:
    """Check that tables can show the names of classes.

    Raises:
        DataError: names the first that they cannot.
    """
    for name in class_names:
        if not is_label(name):
            raise DataError(
                f"{dataset}: {folder}: class folder {ascii(name)}: expected as its name {EXPECTED}; rename it"
            )


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
        DataError: a class folder holds no image, or one whose name cannot be shown.
    """
    files: list[ClassFile] = []
    for label, class_name in enumerate(class_names):
        names = _image_names(folder / class_name)
        if not names:
            raise DataError(
                f"{dataset}: expected images ({', '.join(sorted(SUFFIXES))}) in {folder / class_name}, found none"
            )
        odd = next((name for name in names if not is_printable(name)), None)
        if odd is not None:
            raise DataError(
                f"{dataset}: {folder / class_name}: expected file names of printable characters, found {ascii(odd)}; "
                "rename it"
            )
        if images_per_class is not None:
            names = sorted(names, key=_name_hash)[:images_per_class]
        files += [
            ClassFile(os.path.join(folder, class_name, name), label, f"{pool}/{class_name}/{name}")
            for name in sorted(names)
        ]
    return files


def file_listing(dataset: str, files: Iterable[ClassFile]) -> tuple[str, ...]:
    """One line per file: id and what changes whenever its content does.

    Raises:
        DataError: a file cannot be looked at, for example a link to nowhere, or is a pipe or a device.
    """
    lines = []
    for file in files:
        try:
            status = os.stat(file.path)
            expect_regular(status, MOST_BYTES)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{dataset}: cannot read the image {file.path}: {reason}") from error
        lines.append(f"{file.id}\t{identity_of(status)}")
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

    expect_memory(dataset, len(files), side)
    pixels = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode_chunk(start: int) -> list[bytes]:
        hashes = []
        for index in range(start, min(start + CHUNK, len(files))):
            try:
                data = read_whole(files[index].path, MOST_BYTES)
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
    """Bytes of an image file -> (3, H, W) uint8, RGB; see `pictures.opened`."""
    import numpy as np

    return np.asarray(fit(opened(data))).transpose(2, 0, 1)


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir()]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()


def _nearest(name: str, choices: Sequence[str]) -> str:
    hint, _, _ = suggestion(name, choices).partition(" Available:")
    return hint.replace("Did you mean:", "Is it the folder") if choices else ""
