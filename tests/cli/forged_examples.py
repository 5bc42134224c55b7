"""Forgeries of examples.safetensors, the images that a run keeps to be shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from qpatchbench.runs.example_images import FIRST


def examples_with(change: Callable[[dict[str, Any], list[str]], object]) -> Callable[[Path], None]:
    """Other arrays, or other names of images."""

    def forged(folder: Path) -> None:
        path = folder / "examples.safetensors"
        with safe_open(path, framework="numpy") as file:
            ids = json.loads(file.metadata()["ids"])
        arrays = load_file(path)
        change(arrays, ids)
        save_file(arrays, path, metadata={"ids": json.dumps(ids)})

    return forged


def shown_by_others(arrays: dict[str, Any], ids: list[str]) -> None:
    """One of the images that decide is left out, so that pages show another one instead."""
    for name in ("pixels", "labels", "places"):
        arrays[name] = arrays[name][:-1].copy()
    ids.pop()


def first_only(arrays: dict[str, Any], ids: list[str]) -> None:
    """As an earlier version kept them."""
    for name in ("pixels", "labels", "places"):
        arrays[name] = arrays[name][:FIRST].copy()
    del ids[FIRST:]
