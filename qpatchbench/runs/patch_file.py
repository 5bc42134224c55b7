"""A patch file: textures, masks, goals, places and the course of the loss, read in one place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from qpatchbench.errors import ArtifactError, suggestion
from qpatchbench.runs.reading import MEGABYTE, MOST_BYTES_OF_ARRAYS, expect_modest, read_whole
from qpatchbench.statistics.intervals import Array

MOST_BYTES_OF_FACTS = 10 * MEGABYTE
NAMED = 5  # files of a folder that a message names


@dataclass(frozen=True)
class StoredPatch:
    """What a patch file holds.

    Attributes:
        path: where it lies.
        textures: (P, 3, h, w) uint8; goal after goal, and image after image where they were crafted for one each.
        masks: (P, 1, h, w) of zeros and ones.
        goals: class ids or "untargeted"; empty where the file names none.
        places: rows and columns, (P,) int64 each, where the attack chose them.
        queries: (P,) int64, of score-based attacks.
        attacked: (P,) uint8, 0 for an image that its attack left alone; None where it attacked all.
        history: mean loss of every recorded step, (steps,) float64; empty where none was kept.
    """

    path: Path
    textures: Array
    masks: Array
    goals: tuple[str, ...]
    places: tuple[Array, Array] | None = None
    queries: Array | None = None
    attacked: Array | None = None
    history: Array = field(default_factory=lambda: np.zeros(0))


def read_patch(path: Path) -> StoredPatch:
    """Read a patch file; goals come from its metadata or from the JSON file that the cache keeps beside it.

    Raises:
        ArtifactError: it is missing, or not a patch.
    """
    if not path.is_file():
        there = [found.name for found in path.parent.glob("*.safetensors")]
        nearest = difflib.get_close_matches(path.name, there, n=NAMED, cutoff=0)
        hint = suggestion(path.name, nearest) if nearest else f" {path.parent} holds no .safetensors file."
        raise ArtifactError(f"{path}: expected a patch file, found {'a folder' if path.is_dir() else 'none'}.{hint}")
    expect_modest(path, MOST_BYTES_OF_ARRAYS)
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"{path}: expected a safetensors file, found something else: {error}") from None
    if "textures" not in arrays:
        raise ArtifactError(
            f"{path}: expected an array textures, uint8 (P, 3, h, w), found {', '.join(sorted(arrays)) or 'no array'}"
        )
    textures = arrays["textures"]
    count, _, height, width = textures.shape if textures.ndim == 4 else (0, 0, 0, 0)
    _check(path, "textures", textures, ("uint8",), (count, 3, height, width))
    if not textures.size:
        raise ArtifactError(f"{path}: textures: expected at least one pixel, found shape {textures.shape}")
    masks = arrays.get("masks", np.ones((count, 1, height, width), np.uint8))
    _check(path, "masks", masks, ("uint8", "bool", "float32"), (count, 1, height, width))
    if not np.isin(masks, (0, 1)).all():
        raise ArtifactError(f"{path}: masks: expected zeros and ones, found values up to {masks.max()}")
    for name in ("rows", "columns", "queries"):
        if name in arrays:
            _check(path, name, arrays[name], ("int64",), (count,))
    attacked = arrays.get("attacked")
    if attacked is not None:
        _check(path, "attacked", attacked, ("uint8",), (count,))
    goals = _goals(path, metadata)
    if goals and count % len(goals):
        raise ArtifactError(f"{path}: expected as many textures for each of {len(goals)} goals, found {count} in all")
    places = (arrays["rows"], arrays["columns"]) if {"rows", "columns"} <= set(arrays) else None
    history = np.asarray(arrays.get("history", np.zeros(0)), np.float64)
    return StoredPatch(path, textures, masks, goals, places, arrays.get("queries"), attacked, history)


def read_texture(path: Path, index: int) -> tuple[Array, Array]:
    """One texture (3, h, w) uint8 and its mask (1, h, w) of zeros and ones; of a large file, no more is read.

    Raises:
        ArtifactError: the file is no patch of a run, or has no such texture.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            texture, mask = (file.get_slice(name)[index : index + 1] for name in ("textures", "masks"))
    except (SafetensorError, OSError, OverflowError) as error:
        raise ArtifactError(f"{path}: expected a patch file with texture {index} and its mask: {error}") from None
    height, width = texture.shape[-2:]
    _check(path, "textures", texture, ("uint8",), (1, 3, height, width))
    _check(path, "masks", mask, ("uint8", "bool", "float32"), (1, 1, height, width))
    return texture[0], mask[0]


def _check(path: Path, name: str, array: Array, types: tuple[str, ...], shape: tuple[int, ...]) -> None:
    wanted = "(P, 3, h, w)" if name == "textures" else str(shape)
    if str(array.dtype) not in types or array.shape != shape:
        raise ArtifactError(f"{path}: {name}: expected {types[0]} {wanted}, found {array.dtype} {array.shape}")


def _goals(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The goals that a file's metadata or the facts beside it name; none for a patch made by hand."""
    kept = metadata.get("goals")
    try:
        if kept is None:
            kept = json.loads(read_whole(path.with_suffix(".json"), MOST_BYTES_OF_FACTS))["facts"]["goals"]
        found = json.loads(kept)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    if not isinstance(found, list):
        return ()
    for goal in map(str, found):
        if re.fullmatch(r"untargeted|[0-9]+", goal) is None:
            raise ArtifactError(f"{path}: goals: expected class ids or untargeted, found {ascii(goal)}")
    return tuple(map(str, found))
