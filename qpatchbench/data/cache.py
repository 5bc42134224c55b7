"""Decoded images on disk: uint8 tensors, verified by size and hash, written all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qpatchbench.data.splitting import HASH_BYTES, pixel_hashes
from qpatchbench.errors import DataError, StorageError
from qpatchbench.runs.files import replacing, sha256_of
from qpatchbench.types import ImageSet

if TYPE_CHECKING:
    import numpy as np

TENSORS, META = "images.safetensors", "meta.json"
SEAL = "seal"  # key of the hash of everything else in a JSON file
FORMAT = 2
GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Pool:
    """Decoded images and their hashes.

    Attributes:
        images: the pool, in the order of its source.
        content: (N, 16) uint8, hash of each image's source (file bytes or raw pixels).
        pixels: (N, 16) uint8, hash of each image's decoded pixels.
    """

    images: ImageSet
    content: torch.Tensor
    pixels: torch.Tensor


@dataclass(frozen=True)
class Pools:
    """All images of a dataset.

    Attributes:
        pools: "train" and "test", or one pool of another name that every part is taken from.
        class_names: K names in label order.
    """

    pools: Mapping[str, Pool]
    class_names: tuple[str, ...]


def expect_memory(dataset: str, count: int, side: int) -> None:
    """Check that decoded images can fit into this machine before any is decoded.

    Args:
        dataset: name for messages.
        count: number of images.
        side: height and width, pixels.

    Raises:
        DataError: they cannot.
    """
    wanted, there = 3 * count * side * side, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        raise DataError(
            f"{dataset}: {count:,} images of {side}x{side} pixels take {wanted / GIGABYTE:.1f} GB, this machine has "
            f"{there / GIGABYTE:.1f} GB. Ask for fewer or smaller ones"
        )


def make_pool(pixels: np.ndarray[Any, Any], labels: list[int], ids: list[str], content: list[bytes]) -> Pool:
    """A pool of decoded images.

    Args:
        pixels: (N, 3, H, W) uint8, C-contiguous, N > 0.
        labels: N class ids.
        ids: N unique names.
        content: N hashes of the sources.
    """
    images = ImageSet(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64), tuple(ids))
    return Pool(images, _hash_rows(content), _hash_rows(pixel_hashes(pixels)))


def write_pools(folder: Path, content: Pools) -> None:
    """Write the tensor file, then the meta file that makes it valid.

    Raises:
        StorageError: the disk refuses.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{kind}": tensor.contiguous()
        for name, pool in content.pools.items()
        for kind, tensor in (
            ("images", pool.images.pixels),
            ("labels", pool.images.labels),
            ("content", pool.content),
            ("pixels", pool.pixels),
        )
    }
    path = folder / TENSORS
    _replace(path, lambda temporary: save_file(tensors, temporary))
    meta = {
        "format": FORMAT,
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
        "class_names": content.class_names,
        "ids": {name: pool.images.ids for name, pool in content.pools.items()},
    }
    write_sealed(folder / META, meta)


def read_pools(folder: Path) -> Pools | None:
    """What `write_pools` wrote, or None where it is absent or not the bytes that were written."""
    from safetensors.torch import load_file

    meta = _intact_meta(folder)
    if meta is None or sha256_of(folder / TENSORS) != meta["sha256"]:
        return None
    tensors = load_file(folder / TENSORS)
    pools = {
        name: Pool(
            ImageSet(tensors[f"{name}.images"], tensors[f"{name}.labels"], tuple(ids)),
            tensors[f"{name}.content"],
            tensors[f"{name}.pixels"],
        )
        for name, ids in meta["ids"].items()
    }
    return Pools(pools, tuple(meta["class_names"]))


def stated_hash(folder: Path) -> str | None:
    """SHA-256 of the cache's images as they were written, if they are there and of the right size; reads none."""
    meta = _intact_meta(folder)
    return None if meta is None else str(meta["sha256"])


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` all or nothing, with the hash that `read_sealed` compares.

    Raises:
        StorageError: the disk refuses.
    """
    text = json.dumps({**data, SEAL: _seal(data)})
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where there is nothing, or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    seal = data.pop(SEAL, None)
    return data if seal == _seal(data) else None


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _hash_rows(hashes: list[bytes]) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"".join(hashes)), dtype=torch.uint8).reshape(-1, HASH_BYTES)


def _intact_meta(folder: Path) -> dict[str, Any] | None:
    meta = read_sealed(folder / META)
    path = folder / TENSORS
    if meta is None or meta.get("format") != FORMAT or not path.is_file():
        return None
    return meta if path.stat().st_size == meta.get("size") else None


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, force it to disk and rename it to `path`."""
    try:
        with replacing(path) as temporary:
            write(temporary)
    except Exception as error:
        # safetensors reports a full disk as its own error type, which is no OSError.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise StorageError(f"cannot write the image cache {path}: {error}") from error
        raise
