"""Predictions of networks on images, clean and patched, and their counts.

What is kept are predictions; rates are computed later.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.runs.records import QUERY_BUDGETS, GoalCounts, QueryCounts
from qpatchbench.types import Goal, ImageSet, Network, Patch, Placement, Targeted


def clean_predictions(network: Network, images: ImageSet, batch_size: int) -> torch.Tensor:
    """Predicted class of every image; (N,) int32 on the CPU."""
    return _classes([_logits(network, to_float(images.pixels[part])) for part in _batches(len(images), batch_size)])


def patched_predictions(
    network: Network, images: ImageSet, patch: Patch, placement: Placement, batch_size: int
) -> torch.Tensor:
    """Predicted class of every image under every goal's patch; (goals, N) int32 on the CPU.

    The patch is rounded to 8 bits first, as any image that reaches a deployed network is.
    """
    device = images.pixels.device
    rows, placement = [], placement.to(device)
    for index in range(len(patch.goals)):
        own = patch.for_goal(index)
        textures, masks = round_to_8_bit(own.textures).to(device), own.masks.to(device)
        if len(textures) not in (1, len(images)):
            raise AttackError(f"expected one texture, or one for each of {len(images)} images, found {len(textures)}")
        parts = []
        for part in _batches(len(images), batch_size):
            each = slice(None) if len(textures) == 1 else part
            pasted = paste(to_float(images.pixels[part]), textures[each], masks[each], placement[part])
            parts.append(_logits(network, pasted))
        rows.append(_classes(parts))
    return torch.stack(rows)


def _logits(network: Network, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(images)


def _classes(parts: list[torch.Tensor]) -> torch.Tensor:
    """Logits of every batch -> (N,) int32 on the CPU, for which a device is waited for once."""
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        # argmax of NaN is an arbitrary class: counting it would turn a broken network into a robust one.
        raise AttackError("the network's logits are not finite")
    return logits.argmax(dim=1).to(torch.int32).cpu()


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def count_outcomes(
    labels: np.ndarray,
    clean: np.ndarray,
    patched: np.ndarray,
    goals: tuple[Goal, ...],
    attacked: np.ndarray | None = None,
) -> tuple[GoalCounts, ...]:
    """Counts per goal from labels (N,), clean predictions (N,), and patched ones and attacked images (goals, N)."""
    correct = clean == labels
    counts = []
    everything = np.ones(patched.shape, bool) if attacked is None else attacked
    for goal, predicted, own in zip(goals, patched, everything, strict=True):
        target = goal.class_id if isinstance(goal, Targeted) else -1
        candidates = correct & (labels != target)
        eligible = candidates & own
        counts.append(
            GoalCounts(
                goal=str(goal),
                n_eligible=int(eligible.sum()),
                n_fooled=int((eligible & (predicted != labels)).sum()),
                n_hit=int((eligible & (predicted == target)).sum()),
                n_robust=int((correct & (predicted == labels)).sum()),
                n_left_alone=int((candidates & ~own).sum()),
            )
        )
    return tuple(counts)


def count_queries(
    labels: np.ndarray,
    clean: np.ndarray,
    patched: np.ndarray,
    goals: tuple[Goal, ...],
    queries: torch.Tensor,
    attacked: np.ndarray | None = None,
) -> tuple[QueryCounts, ...]:
    """Counts at each budget, from queries (goals * N,) spent until the first success, or in all where there is none."""
    spent = queries.numpy().reshape(len(goals), len(labels))
    fooled = fooled_images(labels, clean, patched, goals, attacked)
    return tuple(
        QueryCounts(budget=budget, n_fooled=int((fooled & (spent <= budget)).sum())) for budget in QUERY_BUDGETS
    )


def fooled_images(
    labels: np.ndarray,
    clean: np.ndarray,
    patched: np.ndarray,
    goals: tuple[Goal, ...],
    attacked: np.ndarray | None = None,
) -> np.ndarray:
    """(goals, N) boolean: eligible, and the patched prediction is wrong."""
    fooled: np.ndarray = eligible_images(labels, clean, goals) & (patched != labels)
    return fooled if attacked is None else fooled & attacked


def eligible_images(labels: np.ndarray, clean: np.ndarray, goals: tuple[Goal, ...]) -> np.ndarray:
    """(goals, N) boolean: right without a patch, and not of the target class."""
    targets = np.array([goal.class_id if isinstance(goal, Targeted) else -1 for goal in goals])
    eligible: np.ndarray = (clean == labels) & (labels != targets[:, None])
    return eligible
