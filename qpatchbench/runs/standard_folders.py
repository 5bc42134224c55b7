"""Standard places of artifacts and datasets."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir(given: Path | None = None) -> Path:
    """Where artifacts are kept: the folder given, $QPATCHBENCH_CACHE, or the user's cache folder."""
    return given or Path(os.environ.get("QPATCHBENCH_CACHE") or platformdirs.user_cache_dir("qpatchbench"))


def data_dir(given: Path | None = None) -> Path:
    """Where datasets lie: the folder given, $QPATCHBENCH_DATA, or a folder in the cache."""
    return given or Path(os.environ.get("QPATCHBENCH_DATA") or cache_dir() / "data")
