"""The patch that an attack returned, held against what it was asked for before anything of it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qpatchbench.errors import AttackError
from qpatchbench.types import Goal, Patch


def require_patch(title: str, patch: object, goals: Sequence[Goal], count: int, side: int, whole: int) -> None:
    """Check type, goals, shapes and figures of a patch.

    Args:
        title: the job, for messages.
        patch: what the attack returned.
        goals: those it was asked for.
        count: textures it was asked for: one per goal, of a per-image attack one per goal and image.
        side: side of the patch, pixels.
        whole: side of the images; a patch that says where it lies may be as large.

    Raises:
        AttackError: it is not what was asked for.
    """
    if not isinstance(patch, Patch):
        raise AttackError(f"{title}: expected the attack to return a Patch, found {type(patch).__name__}")
    if tuple(patch.goals) != tuple(goals):
        found = ", ".join(map(str, patch.goals))
        raise AttackError(
            f"{title}: expected a patch for the goals {', '.join(map(str, goals))}, found {found or 'none'}"
        )
    textures, masks = patch.textures, patch.masks
    for name, tensor in (("textures", textures), ("masks", masks)):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            found = str(tensor.dtype) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise AttackError(f"{title}: expected {name} as a tensor of floats, found {found}")
    if textures.ndim != 4 or textures.shape[:2] != (count, 3):
        raise AttackError(f"{title}: expected textures ({count}, 3, h, w), found {tuple(textures.shape)}")
    height, width = textures.shape[-2:]
    if patch.placement is None and (height, width) != (side, side):
        raise AttackError(f"{title}: expected a patch of {side}x{side} pixels, found {height}x{width}")
    if max(height, width) > whole:
        raise AttackError(f"{title}: expected a patch within {whole}x{whole} pixels, found {height}x{width}")
    if masks.shape != (count, 1, height, width):
        raise AttackError(f"{title}: expected masks {(count, 1, height, width)}, found {tuple(masks.shape)}")
    if not bool(torch.isfinite(textures).all()):
        raise AttackError(f"{title}: the patch is not finite")
    _require_figures(title, patch, count)


def _require_figures(title: str, patch: Patch, count: int) -> None:
    for step, loss in enumerate(patch.history):
        # A NaN is an honest answer of a loss; text is none.
        if isinstance(loss, bool) or not isinstance(loss, int | float):
            raise AttackError(f"{title}: expected a history of numbers, found {loss!r} at step {step}")
    rows = None if patch.placement is None else patch.placement.rows
    for name, value in (("queries", patch.queries), ("rows", rows), ("marks of attacked images", patch.attacked)):
        if value is not None and tuple(value.shape) != (count,):
            raise AttackError(f"{title}: expected {count} {name}, found {tuple(value.shape)}")
    if patch.attacked is not None and patch.attacked.dtype != torch.bool:
        raise AttackError(f"{title}: expected marks of attacked images as bool, found {patch.attacked.dtype}")
    for stage in patch.stages:
        if not all(isinstance(figure, int) and math.isfinite(figure) for figure in (stage.attacked, stage.broken)):
            raise AttackError(f"{title}: expected counts of images from stage {stage.attack!r}, found {stage}")
