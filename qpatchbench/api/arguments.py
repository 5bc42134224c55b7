"""Arguments of single steps: networks, images, goals and patches as callers have them, in this package's own types."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.patches.pasting import to_float, to_uint8
from qpatchbench.runs.foreign.foreign_patch import ForeignPatch, masks_of, read_foreign, textures_of
from qpatchbench.types import Goal, ImageSet, Network, Patch, Targeted, Untargeted

Images: TypeAlias = ImageSet | tuple[torch.Tensor | np.ndarray[Any, Any], torch.Tensor | np.ndarray[Any, Any]]
Goals: TypeAlias = Literal["untargeted"] | int | Sequence[int]
# A crafted patch; the file of one; or a texture, or texture and mask, as arrays.
AnyPatch: TypeAlias = Patch | Path | str | np.ndarray[Any, Any] | torch.Tensor | tuple[Any, Any]


def patch_from_elsewhere(patch: object, goals: Goals | None) -> Patch:
    """A patch from a file or from arrays, in a square."""
    if isinstance(patch, str | Path):
        found = read_foreign(Path(patch))
    else:
        pixels, mask = patch if isinstance(patch, tuple) else (patch, None)
        try:
            textures = textures_of(_array(pixels), None)
            found = ForeignPatch(textures, masks_of(None if mask is None else _array(mask), textures.shape))
        except ValueError as error:
            raise QPatchBenchError(f"the patch: {error}") from None
    named: tuple[Goal, ...] = tuple(map(Targeted, found.targets)) or (Untargeted(),)
    if goals is not None:
        named = (Untargeted(),) if goals == "untargeted" else tuple(map(Targeted, several_goals(goals)))
    square = found.squared()
    if len(named) != len(square.textures):
        raise QPatchBenchError(f"expected a goal for each of {len(square.textures)} patches, found {len(named)}")
    return Patch(torch.from_numpy(square.textures), torch.from_numpy(square.masks).float(), named)


def expect_classes(patch: Patch, classes: int) -> None:
    """Refuse goals that the network has no class for.

    Raises:
        QPatchBenchError: names the goal.
    """
    for goal in patch.goals:
        if isinstance(goal, Targeted) and not 0 <= goal.class_id < classes:
            raise QPatchBenchError(f"expected class ids in 0..{classes - 1} of the network, found {goal}")


def image_set(images: Images) -> ImageSet:
    """Images as every part of qpatchbench has them.

    Raises:
        QPatchBenchError: they are none.
    """
    if isinstance(images, ImageSet):
        return images
    pixels, labels = (torch.as_tensor(part) for part in images)
    if (
        pixels.ndim != 4
        or pixels.shape[1] != 3
        or pixels.shape[2] != pixels.shape[3]
        or labels.shape != pixels.shape[:1]
    ):
        raise QPatchBenchError(
            "expected square images (N, 3, H, W) and as many labels (N,), found "
            f"{tuple(pixels.shape)} and {tuple(labels.shape)}"
        )
    stored = pixels if pixels.dtype == torch.uint8 else to_uint8(float_pixels(pixels))
    return ImageSet(stored, labels.long(), tuple(map(str, range(len(labels)))))


def float_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels as float32 in [0, 1].

    Raises:
        QPatchBenchError: they are not in that range.
    """
    if pixels.dtype == torch.uint8:
        return to_float(pixels)
    if len(pixels) and not (bool(pixels.min() >= 0) and bool(pixels.max() <= 1)):
        low, high = float(pixels.min()), float(pixels.max())
        raise QPatchBenchError(f"expected pixels in [0, 1], or uint8, found {low:.3g}..{high:.3g}")
    return pixels.float()


def _array(values: object) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def frozen_copy(network: Network) -> Network:
    """A copy in eval mode whose weights want no gradient; a function is itself."""
    if not isinstance(network, torch.nn.Module):
        return network
    return copy.deepcopy(network).eval().requires_grad_(False)


def classes_of(network: Network, images: ImageSet) -> int:
    """Number of classes that a network answers with."""
    with torch.no_grad():
        return int(network(to_float(images.pixels[:1])).shape[-1])


def several_goals(goals: int | Sequence[int]) -> tuple[int, ...]:
    """One class id or several as a tuple."""
    return (goals,) if isinstance(goals, int) else tuple(goals)
