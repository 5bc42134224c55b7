"""The common part of the built-in datasets: find images, decode them once, split them, remember the fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qpatchbench.data.base import DatasetSource, Decoding, Splits, Survey
from qpatchbench.data.cache import (
    FORMAT,
    Pool,
    Pools,
    read_pools,
    read_sealed,
    stated_hash,
    write_pools,
    write_sealed,
)
from qpatchbench.data.splitting import (
    HASH_BYTES,
    PARTS,
    Keys,
    PartSizes,
    fingerprint,
    part_fingerprint,
    pixel_hashes,
    split_one_pool,
    split_two_pools,
)
from qpatchbench.errors import DataError, QPatchBenchError
from qpatchbench.origin import THIS_PROCESS, is_outside, source_hash
from qpatchbench.types import ImageSet


@dataclass(frozen=True)
class Origin:
    """Where images come from.

    Attributes:
        listing: changes whenever the source files do; cheap to make (names, sizes, times, inodes).
        recipe: every setting that decides the decoded pixels, JSON-ready.
        read: decodes all images.
        note: see `Splits.note`.
        class_names: K names in label order; none where only `read` knows them.
        remarks: see `Survey.remarks`.
    """

    listing: tuple[str, ...]
    recipe: dict[str, Any]
    read: Callable[[], Pools]
    note: str = ""
    class_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class CachedSource(DatasetSource):
    """A dataset whose decoded images are kept under `<cache_dir>/datasets/<name>-<signature>/`."""

    @abstractmethod
    def locate(self, data_dir: Path, decoding: Decoding) -> Origin:
        """Find the images without decoding any.

        Raises:
            DataError: they are not there; says where they were looked for.
        """

    def obtain(self, data_dir: Path, decoding: Decoding) -> Origin:
        """Like `locate`, but may first fetch what is missing."""
        return self.locate(data_dir, decoding)

    def survey(self, data_dir: Path) -> Survey:
        """What `locate` finds."""
        with self._looking(data_dir):
            origin = self.locate(data_dir, Decoding())
        return Survey(origin.class_names, origin.remarks)

    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        """See `DatasetSource.load`."""
        with self._looking(data_dir):
            origin = self.obtain(data_dir, decoding)
        folder = self._folder(cache_dir, origin)
        stored = read_pools(folder)
        if stored is None:
            stored = origin.read()
            write_pools(folder, stored)
        splits = _split(self.name, stored, self._sizes(evaluation_images), self.split_seed, origin.note)
        path = self._split_path(folder, evaluation_images)
        remembered = {
            "split": path.stem,
            "images": stated_hash(folder),
            "fingerprints": dict(splits.fingerprints),
        }
        if read_sealed(path) != remembered:
            write_sealed(path, remembered)
        return splits

    def remembered_fingerprints(
        self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int
    ) -> dict[str, str] | None:
        """The fingerprints an earlier `load` found, or None."""
        folder = self._folder(cache_dir, self.locate(data_dir, decoding))
        path, images = self._split_path(folder, evaluation_images), stated_hash(folder)
        remembered = read_sealed(path)
        if images is None or remembered is None:
            return None
        if (remembered["split"], remembered["images"]) != (path.stem, images):
            return None  # the record of another split, or of other images
        fingerprints: dict[str, str] = remembered["fingerprints"]
        return fingerprints

    @contextlib.contextmanager
    def _looking(self, data_dir: Path) -> Iterator[None]:
        """Turn the operating system's refusal to show a folder into one clear error."""
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.name}: cannot look for its images below {data_dir}: {error}") from error

    def _sizes(self, evaluation_images: int) -> PartSizes:
        return PartSizes(self.train_images, self.calibration_images, self.craft_images, evaluation_images)

    def _folder(self, cache_dir: Path, origin: Origin) -> Path:
        cls = type(self)
        code = [THIS_PROCESS if self.unidentified else source_hash(cls)] if is_outside(cls) else []
        kind = f"{cls.__module__}:{cls.__qualname__}"
        signature = _short_hash([kind, self.version, FORMAT, origin.recipe, origin.listing, *code])
        return cache_dir / "datasets" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}-{signature}"

    def _split_path(self, folder: Path, evaluation_images: int) -> Path:
        sizes = self._sizes(evaluation_images)
        return folder / "splits" / f"{_short_hash([self.split_seed, *vars(sizes).values()])}.json"


def identified(splits: Splits) -> Splits:
    """The same images, known by hashes of every pixel, label and id, whatever their source says of them."""
    found = {}
    for part in PARTS:
        images: ImageSet = getattr(splits, part)
        hashes = pixel_hashes(images.pixels.cpu().contiguous().numpy())
        found[part] = part_fingerprint(Keys(images.ids, images.labels.tolist(), hashes, hashes))
    return replace(splits, fingerprints=found)


def cached_fingerprints(
    dataset: DatasetSource, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int
) -> dict[str, str] | None:
    """The fingerprints `dataset.load` would return, if an earlier load with these arguments left them in the cache.

    Decodes nothing, needs no torch and never raises because data or cache is missing or broken: then it
    returns None.
    """
    if not isinstance(dataset, CachedSource):
        return None
    try:
        return dataset.remembered_fingerprints(data_dir, cache_dir, decoding, evaluation_images)
    except (QPatchBenchError, OSError):
        return None


def cached_fingerprint(
    dataset: DatasetSource, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int
) -> str | None:
    """`Splits.fingerprint` on the same terms as `cached_fingerprints`."""
    found = cached_fingerprints(dataset, data_dir, cache_dir, decoding, evaluation_images)
    return None if found is None else fingerprint(found)


def _split(name: str, content: Pools, sizes: PartSizes, seed: int, note: str) -> Splits:
    pools = list(content.pools.values())
    keys = [_keys(pool) for pool in pools]
    if len(pools) == 1:
        parts = split_one_pool(name, keys[0], sizes, seed)
    else:
        parts = split_two_pools(name, keys[0], keys[1], sizes, seed)
    chosen = {part: _subset(keys[_pool_of(part, pools)], getattr(parts, part)) for part in PARTS}
    return Splits(
        **{part: _select(pools[_pool_of(part, pools)].images, getattr(parts, part)) for part in PARTS},
        fingerprints={part: part_fingerprint(part_keys) for part, part_keys in chosen.items()},
        class_names=content.class_names,
        note=note,
    )


def _pool_of(part: str, pools: list[Pool]) -> int:
    return len(pools) - 1 if part == "evaluation" else 0


def _keys(pool: Pool) -> Keys:
    return Keys(pool.images.ids, pool.images.labels.tolist(), _rows(pool.content), _rows(pool.pixels))


def _rows(hashes: torch.Tensor) -> list[bytes]:
    flat = hashes.numpy().tobytes()
    return [flat[start : start + HASH_BYTES] for start in range(0, len(flat), HASH_BYTES)]


def _subset(keys: Keys, indices: list[int]) -> Keys:
    return Keys(*([values[i] for i in indices] for values in vars(keys).values()))


def _select(images: ImageSet, indices: list[int]) -> ImageSet:
    index = torch.tensor(indices, dtype=torch.int64)
    return ImageSet(images.pixels[index], images.labels[index], tuple(images.ids[i] for i in indices))


def _short_hash(data: object) -> str:
    # Names of files need not be valid text; JSON escapes what is not.
    return hashlib.blake2b(json.dumps(data).encode(), digest_size=8).hexdigest()
