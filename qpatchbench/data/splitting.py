"""The deal of images into train, calibration, craft and evaluation: pure functions of hashes and labels.

Inside a class the order is that of blake2b(split_seed, content hash); classes are interleaved round
robin. So every prefix of the order is class balanced (as long as every class has images left), and
the order depends on the images alone, never on how their files are listed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from qpatchbench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

HASH_BYTES = 16
PARTS = ("train", "calibration", "craft", "evaluation")


@dataclass(frozen=True)
class Keys:
    """What the split looks at, one entry per image of a pool.

    Attributes:
        ids: unique names; they decide only between images of equal content.
        labels: class ids.
        content: hashes of the source (file bytes or raw pixels); they decide the order, so that it does
            not depend on how the images are cropped.
        pixels: hashes of the decoded pixels; equal ones are the same image.
    """

    ids: Sequence[str]
    labels: Sequence[int]
    content: Sequence[bytes]
    pixels: Sequence[bytes]


@dataclass(frozen=True)
class PartSizes:
    """How many images each part shall have; `train` None = all that remain. `evaluation` is an upper bound."""

    train: int | None
    calibration: int
    craft: int
    evaluation: int


@dataclass(frozen=True)
class Parts:
    """Indices into the train pool (train, calibration, craft) and into the test pool (evaluation).

    Where there is one pool only, all indices are into that pool.
    """

    train: list[int]
    calibration: list[int]
    craft: list[int]
    evaluation: list[int]


@dataclass(frozen=True)
class Overlap:
    """Two parts that share images; `hashes` are the shared ones, sorted."""

    first: str
    second: str
    hashes: tuple[bytes, ...]


def content_hash(content: bytes | memoryview) -> bytes:
    """16 bytes of blake2b."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def pixel_hashes(pixels: np.ndarray[Any, Any]) -> list[bytes]:
    """One hash per image.

    Args:
        pixels: (N, ...) uint8, C-contiguous inside an image.
    """
    return [content_hash(image.tobytes()) for image in pixels]


def interleave(keys: Keys, seed: int, dropped: frozenset[bytes] = frozenset(), once: bool = True) -> list[int]:
    """Order of the images of a pool: hash order inside each class, classes round robin.

    Args:
        keys: the pool.
        seed: `split_seed`.
        dropped: images with one of these pixel hashes are left out.
        once: of images with equal pixels only the first is kept.
    """
    salt = seed.to_bytes(8, "big")
    digests = [content_hash(salt + content) for content in keys.content]
    seen: set[bytes] = set(dropped)
    drawn: Counter[int] = Counter()
    rounds: list[tuple[int, bytes, str, int]] = []
    for index in sorted(range(len(digests)), key=lambda i: (digests[i], keys.ids[i])):
        if keys.pixels[index] in (seen if once else dropped):
            continue
        seen.add(keys.pixels[index])
        label = keys.labels[index]
        rounds.append((drawn[label], digests[index], keys.ids[index], index))
        drawn[label] += 1
    # Within one round the classes follow their images' hashes: with one image per class, a prefix is
    # then a random set of classes and not the first ones of the alphabet.
    return [index for _, _, _, index in sorted(rounds)]


def split_two_pools(name: str, train: Keys, test: Keys, sizes: PartSizes, seed: int) -> Parts:
    """Evaluation from the test pool; calibration, craft and then train from the train pool.

    Train-pool images that also occur in the test pool are dropped.

    Raises:
        DataError: the train pool holds fewer images than calibration and craft ask for.
    """
    order = interleave(train, seed, dropped=frozenset(test.pixels))
    held_out = _held_out(name, sizes, len(order), "train pool")
    end = None if sizes.train is None else held_out + sizes.train
    return Parts(
        train=order[held_out:end],
        calibration=order[: sizes.calibration],
        craft=order[sizes.calibration : held_out],
        evaluation=interleave(test, seed, once=False)[: sizes.evaluation],
    )


def split_one_pool(name: str, pool: Keys, sizes: PartSizes, seed: int) -> Parts:
    """Calibration, craft, train and evaluation from one pool, in this order; train is empty unless its size is given.

    Raises:
        DataError: fewer images than calibration, craft, train and one evaluation image.
    """
    order, train = interleave(pool, seed), sizes.train or 0
    held_out = _held_out(name, sizes, len(order) - 1, "only pool, which also has to hold an evaluation image,", train)
    return Parts(
        train=order[held_out : held_out + train],
        calibration=order[: sizes.calibration],
        craft=order[sizes.calibration : held_out],
        evaluation=order[held_out + train : held_out + train + sizes.evaluation],
    )


def check_disjoint(parts: Mapping[str, Iterable[bytes]]) -> tuple[Overlap, ...]:
    """Every pair of parts that shares an image hash; empty = disjoint.

    >>> check_disjoint({"train": [b"a", b"b"], "craft": [b"c"], "evaluation": [b"b"]})
    (Overlap(first='train', second='evaluation', hashes=(b'b',)),)
    """
    sets = {part: frozenset(hashes) for part, hashes in parts.items()}
    return tuple(
        Overlap(first, second, tuple(sorted(sets[first] & sets[second])))
        for first, second in combinations(sets, 2)
        if sets[first] & sets[second]
    )


def part_fingerprint(keys: Keys) -> str:
    """32 hex digits that depend on every pixel (by its image's hash), label, id and position of one part."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for name, label, pixels in zip(keys.ids, keys.labels, keys.pixels, strict=True):
        digest.update(f"{label} {name}\0".encode(errors="surrogateescape") + pixels)
    return digest.hexdigest()


def fingerprint(parts: Mapping[str, str]) -> str:
    """32 hex digits for the whole, from the fingerprints of the four parts."""
    return content_hash("".join(f"{part} {parts[part]}\n" for part in PARTS).encode()).hex()


def _held_out(name: str, sizes: PartSizes, available: int, pool: str, train: int = 0) -> int:
    """How many images calibration and craft take; the pool has to have as many, and those for training."""
    asked = {"calibration_images": sizes.calibration, "craft_images": sizes.craft}
    if train:
        asked["train_images"] = train
    if sum(asked.values()) > available:
        raise DataError(
            f"{name}: expected at most {max(available, 0)} images for {' + '.join(asked)}, found "
            f"{' + '.join(map(str, asked.values()))} = {sum(asked.values())}: the {pool} has {max(available, 0)} "
            f"different images for them. Ask for fewer."
        )
    return sizes.calibration + sizes.craft
