"""Squares cut into cells, of which half are selected (PBCAT: Li et al. 2025, arXiv 2506.23581).

A cell is judged by the mean of a map over its pixels. Cells are blocks of whole pixels that differ by at most one in
height and width, where the authors' code leaves out pixels that do not divide evenly.
"""

from __future__ import annotations

import torch

from qpatchbench.types import Placement


def gradient_norms(gradients: torch.Tensor) -> torch.Tensor:
    """Gradients (B, C, H, W) -> (B, H, W): L2 norm over channels of every pixel."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return norms


def windows(maps: torch.Tensor, placement: Placement, side: int) -> torch.Tensor:
    """Maps (B, H, W) -> the upright square at each of B places, (B, side, side)."""
    offset = torch.arange(side, device=maps.device)
    rows = placement.rows.to(maps.device).view(-1, 1, 1) + offset.view(1, -1, 1)
    columns = placement.columns.to(maps.device).view(-1, 1, 1) + offset
    return maps[torch.arange(len(maps), device=maps.device).view(-1, 1, 1), rows, columns]


def cell_means(squares: torch.Tensor, cells: int) -> torch.Tensor:
    """Squares (B, s, s) -> mean of each of cells x cells blocks, (B, cells, cells); cells at most s."""
    members = _members(squares.shape[-1], cells, squares.device)
    shares = members / members.sum(dim=1, keepdim=True)
    return torch.einsum("ir,brc,jc->bij", shares, squares.float(), shares)


def largest_half(scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, c, c) -> (B, c, c) bool, true at the floor(c * c / 2) largest; at one cell, that one."""
    flat = scores.flatten(1)
    chosen = flat.topk(max(1, flat.shape[1] // 2), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view(scores.shape)


def as_pixels(selected: torch.Tensor, side: int) -> torch.Tensor:
    """Cells (B, c, c) bool -> their pixels, (B, 1, side, side) float32 in {0, 1}."""
    cell = _cells_of_pixels(side, selected.shape[-1], selected.device)
    return selected[:, cell][:, :, cell].float().unsqueeze(1)


def _cells_of_pixels(side: int, cells: int, device: torch.device) -> torch.Tensor:
    return torch.arange(side, device=device) * cells // side


def _members(side: int, cells: int, device: torch.device) -> torch.Tensor:
    """(cells, side) float32: 1 where a pixel belongs to a cell."""
    cell = _cells_of_pixels(side, cells, device)
    return (cell == torch.arange(cells, device=device).view(-1, 1)).float()
