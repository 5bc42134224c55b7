"""Places to lay a patch: those that are allowed, random ones, and the most sensitive one.

The search is that of the rectangular occlusion attack (ROA; Wu, Tong, Vorobeychik 2020, arXiv 1909.09552), by gradient:
windows are ranked by the squared gradient that they hold, and the best few are compared with a mid-grey patch. Here
every position is a candidate, the last row and column included, and windows are kept half a patch apart: the best by
energy alone are one window and its neighbours, which show a patch the same pixels over and over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import Placement

GREY = 0.5

# Images (B, 3, H, W) -> (B,), one loss each, minimised by the attacker.
Losses: TypeAlias = Callable[["torch.Tensor"], "torch.Tensor"]


class Box(NamedTuple):
    """A rectangle in pixels."""

    row: int
    column: int
    height: int
    width: int


def box_misfits(side: int, whole: int, excluded: tuple[int, int, int, int] | None) -> Iterator[tuple[str, str]]:
    """Why no patch of a side has room beside an excluded box, as `Component.misfits` says it."""
    if excluded is not None and side <= whole:
        try:
            allowed_places((whole, whole), (side, side), Box(*excluded))
        except AttackError as error:
            yield "excluded", str(error)


def upright(rows: torch.Tensor, columns: torch.Tensor) -> Placement:
    """Places (B,) without rotation or scaling."""
    flat = torch.zeros(rows.shape, device=rows.device)
    return Placement(rows, columns, flat, flat + 1, upright=True)


def allowed_places(
    image_size: tuple[int, int], patch_size: tuple[int, int], excluded: Box | None = None
) -> torch.Tensor:
    """(H - h + 1, W - w + 1) bool: whether a patch with its top-left pixel there has no pixel in the excluded box.

    Raises:
        AttackError: there is no such place.
    """
    rows, columns = (torch.arange(image - patch + 1) for image, patch in zip(image_size, patch_size, strict=True))
    if excluded is None:
        return torch.ones(len(rows), len(columns), dtype=torch.bool)
    beside = (rows + patch_size[0] <= excluded.row) | (rows >= excluded.row + excluded.height)
    next_to = (columns + patch_size[1] <= excluded.column) | (columns >= excluded.column + excluded.width)
    allowed = beside.view(-1, 1) | next_to
    if not bool(allowed.any()):
        raise AttackError(
            f"expected room for a patch of {patch_size[0]} x {patch_size[1]} beside the excluded box {list(excluded)} "
            f"(row, column, height, width) on an image of {image_size[0]} x {image_size[1]}, found none; "
            "make the box or the patch smaller"
        )
    return allowed


def random_places(allowed: torch.Tensor, draws: ImageDraws) -> Placement:
    """One place per image, uniform over the allowed ones (rows, columns)."""
    places = allowed.nonzero().to(draws.seeds.device)
    rows, columns = places[draws.integers(len(places))].unbind(dim=1)
    return upright(rows, columns)


def beside_the_box(placement: Placement, allowed: torch.Tensor, draws: ImageDraws) -> Placement:
    """The places (B,), upright; those that are not allowed are replaced by random allowed ones."""
    keep = allowed.to(placement.rows.device)[placement.rows, placement.columns]
    other = random_places(allowed, draws)
    return upright(torch.where(keep, placement.rows, other.rows), torch.where(keep, placement.columns, other.columns))


def window_energies(gradients: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """Gradients (B, C, H, W) -> (B, H - h + 1, W - w + 1) float64: sum of their squares in every window."""
    squares = gradients.double().square().sum(dim=1, keepdim=True)
    pooled = torch.nn.functional.avg_pool2d(squares, patch_size, stride=1, divisor_override=1)
    return pooled.squeeze(1)


def spaced_peaks(energies: torch.Tensor, count: int, patch_size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns (B, n) of the windows of largest energy (B, R, C) that lie half a patch apart; n <= `count`.

    Taken greedily: the largest, then the largest of those that are half a patch away from it in rows or in columns,
    and so on. Where an image has no window left, its first is named again.
    """
    left, height, width = energies.clone(), *energies.shape[1:]
    all_rows = torch.arange(height, device=energies.device).view(1, -1, 1)
    all_columns = torch.arange(width, device=energies.device).view(1, 1, -1)
    rows, columns = list[torch.Tensor](), list[torch.Tensor]()
    while len(rows) < count:
        highest, flat = left.flatten(1).max(dim=1)
        some = highest >= 0  # a window that is taken, or next to one that is, counts as -1
        if not bool(some.any()):
            break
        row, column = flat // width, flat % width
        rows.append(torch.where(some, row, rows[0]) if rows else row)
        columns.append(torch.where(some, column, columns[0]) if columns else column)
        near = (all_rows - row.view(-1, 1, 1)).abs() * 2 < patch_size[0]
        near = near & ((all_columns - column.view(-1, 1, 1)).abs() * 2 < patch_size[1])
        left = left.masked_fill(near, -1)
    return torch.stack(rows, dim=1), torch.stack(columns, dim=1)


def most_sensitive_places(
    images: torch.Tensor, losses: Losses, patch_size: tuple[int, int], candidates: int
) -> Placement:
    """The window in which a mid-grey patch lowers the loss most, among spaced ones of large squared gradient.

    Args:
        images: (B, 3, H, W) in [0, 1].
        losses: of unpatched and patched images.
        patch_size: (height, width), pixels.
        candidates: how many windows are tried; 1 trusts the gradient alone. Costs one forward pass each.

    Raises:
        AttackError: a loss is not finite.
    """
    inputs = images.detach().clone().requires_grad_()
    (gradients,) = torch.autograd.grad(_finite(losses(inputs)).sum(), inputs)
    rows, columns = spaced_peaks(window_energies(gradients, patch_size), candidates, patch_size)
    grey = torch.full((1, images.shape[1], *patch_size), GREY, device=images.device)
    with torch.no_grad():
        tried = [
            _finite(losses(paste(images, grey, torch.ones_like(grey[:, :1]), upright(rows[:, rank], columns[:, rank]))))
            for rank in range(rows.shape[1])
        ]
    best = torch.stack(tried, dim=1).argmin(dim=1, keepdim=True)
    return upright(rows.gather(1, best).squeeze(1), columns.gather(1, best).squeeze(1))


def _finite(losses: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(losses).all()):
        raise AttackError(
            "the loss is not finite while places are searched: the network's output holds NaN or infinity"
        )
    return losses
