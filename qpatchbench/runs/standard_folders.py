"""Standard places of artifacts and datasets."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import platformdirs

_SCHEME = "://"


class CachePlace(NamedTuple):
    """Where artifacts are kept.

    Attributes:
        folder: on this machine.
        address: where finished ones are published and fetched from, as fsspec reads it; None: nowhere else.
    """

    folder: Path
    address: str | None = None


def cache_place(given: Path | str | None = None) -> CachePlace:
    """The folder or address given, else $QPATCHBENCH_CACHE, else the user's cache folder.

    An address has a folder of its own on this machine: $QPATCHBENCH_LOCAL, or one in the user's cache folder.
    """
    stated = str(given or os.environ.get("QPATCHBENCH_CACHE") or "")
    if _SCHEME not in stated:
        return CachePlace(Path(stated or platformdirs.user_cache_dir("qpatchbench")))
    name = hashlib.sha256(stated.encode()).hexdigest()[:16]
    folder = (
        os.environ.get("QPATCHBENCH_LOCAL") or Path(platformdirs.user_cache_dir("qpatchbench")) / "addresses" / name
    )
    return CachePlace(Path(folder), stated)


def cache_dir(given: Path | None = None) -> Path:
    """The folder on this machine where artifacts are kept; see `cache_place`."""
    return given or cache_place().folder


def data_dir(given: Path | None = None) -> Path:
    """Where datasets lie: the folder given, $QPATCHBENCH_DATA, or a folder in the cache."""
    return given or Path(os.environ.get("QPATCHBENCH_DATA") or cache_dir() / "data")
