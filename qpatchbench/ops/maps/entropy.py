"""Heat maps of local entropy, and filling of holes: the steps of Jedi (Tarchoun et al. 2023, CVPR, section 4)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

LUMINANCE = (0.299, 0.587, 0.114)
LEVELS = 256


def grey_levels(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] -> luminance (B, H, W) as int64 in 0..255."""
    weights = images.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return ((images * weights).sum(dim=1) * (LEVELS - 1)).round().long()


def entropy_map(grey: torch.Tensor, window: int) -> torch.Tensor:
    """Grey levels (B, H, W) -> Shannon entropy of the window around every pixel, bits, (B, H, W) float32.

    Windows are half a window apart, beyond the border the image is mirrored, and where windows overlap the last one
    counts.
    """
    pad, stride = window // 2, max(1, window // 2)
    padded = np.pad(grey.cpu().numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    windows = torch.from_numpy(padded).unfold(1, window, stride).unfold(2, window, stride).flatten(3)
    found = torch.stack([_entropies(each.flatten(0, 1)).view(each.shape[:2]) for each in windows])
    rows, columns = (
        ((torch.arange(length) + pad) // stride).clamp(max=found.shape[axis] - 1)
        for axis, length in ((1, grey.shape[1]), (2, grey.shape[2]))
    )
    return found[:, rows][:, :, columns].to(grey.device)


def _entropies(values: torch.Tensor) -> torch.Tensor:
    """Values (W, n) in 0..255 -> entropy of each row's histogram, bits, (W,) float32."""
    counts = torch.zeros(len(values), LEVELS).scatter_add_(1, values, torch.ones(values.shape))
    shares = counts / values.shape[1]
    bits: torch.Tensor = torch.xlogy(shares, shares).sum(dim=1) / -math.log(2)
    return bits


def without_specks(mask: np.ndarray, share: float) -> np.ndarray:
    """Mask (H, W) bool without connected parts smaller than `share` of the image, where it has more than one part."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count <= 1:
        return mask
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    kept: np.ndarray = (areas >= share * mask.size)[parts]
    return kept


def filled(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Image (C, H, W) with the pixels of `hole` (H, W) bool harmonic: each is the mean of its neighbours.

    That is the smoothest surface through the rim (Laplace's equation). An image that is all hole becomes half grey.
    """
    if not hole.any():
        return image
    if hole.all():
        return np.full_like(image, 0.5)
    height, width = hole.shape
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    rows, columns = np.nonzero(hole)
    degree = np.zeros(len(rows))
    known = np.zeros((len(rows), len(image)))
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        near = (rows + down >= 0) & (rows + down < height) & (columns + across >= 0) & (columns + across < width)
        place = np.nonzero(near)[0]
        beside = (rows[near] + down, columns[near] + across)
        degree[place] += 1
        inner = hole[beside]
        links.append((place[inner], number[beside][inner]))
        known[place[~inner]] += image[:, beside[0][~inner], beside[1][~inner]].T
    first, second = (np.concatenate([link[side] for link in links]) for side in (0, 1))
    system = sparse.diags_array(degree) - sparse.csr_array((np.ones(len(first)), (first, second)), (len(rows),) * 2)
    result = image.copy()
    solved = spsolve(sparse.csc_array(system), known)
    result[:, rows, columns] = np.clip(solved.reshape(known.shape).T, 0, 1)
    return result
