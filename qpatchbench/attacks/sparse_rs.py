"""Sparse-RS: random search for a patch from scores alone.

Croce, Andriushchenko, Singh, Flammarion, Hein 2022 (arXiv 2006.12834), the part on adversarial patches. It needs no
gradient: what it finds and attacks with gradients do not, the gradients hide.

Every query proposes one change to the best patch so far, and keeps it if the loss does not rise:

    most of the time  a square of sqrt(alpha) * side pixels a side of the patch takes one random colour of {0, 1}^3; a
                      single pixel always takes another colour than it has
    every m-th query  the patch moves by at most a shrinking distance (m = 4, or 10 when targeted, as in the paper)

alpha starts at 0.4 (0.1 when targeted) and halves at fixed points of the budget, which are those of 10,000 queries
rescaled. The start is a patch of random squares. The loss is the margin, or the cross-entropy to a target. An image
leaves at its first success, with the number of queries it took.

As in the authors' code, but for the places: theirs never reach the last row and column at the start; here all do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError
from qpatchbench.ops import crafting
from qpatchbench.ops.crafting import goal_by_goal
from qpatchbench.ops.locating import upright
from qpatchbench.ops.losses import cross_entropy, goal_classes, logit_difference, succeeded
from qpatchbench.ops.pasting import paste, to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import CraftTask, Patch, Placement, Targeted

HALVINGS = (50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
FARTHEST = 0.75  # largest move at the start, as a share of the image's side
START_SQUARES = 40
RECORDED = 100  # points of the history


@dataclass
class _State:
    """The best patch so far of some images: textures (B, 3, s, s), rows, columns and losses (B,)."""

    textures: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    losses: torch.Tensor


class SparseRs(Attack):
    """Random search on a patch and its place, one image at a time."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "scores"
    learns: ClassVar[bool] = False

    queries: int = Field(default=10_000, gt=0, description="images shown to the network for each attacked image")
    location: Literal["given", "searched"] = Field(
        default="searched", description="searched with the patch, as in the paper, or where the suite placed the patch"
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the patch that a proposal changes at first; 0.4, and 0.1 when targeted, if not given",
    )

    def craft(self, task: CraftTask) -> Patch:
        """One texture, and its place where that is searched, per goal and image."""
        return goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        device, side = images.pixels.device, self.size.side(images.side)
        draws = ImageDraws.for_task(task, forked(task.generator))
        found = _State(
            torch.zeros(len(images), 3, side, side, device=device),
            torch.zeros(len(images), dtype=torch.int64, device=device),
            torch.zeros(len(images), dtype=torch.int64, device=device),
            torch.zeros(len(images), device=device),
        )
        spent = torch.full((len(images),), self.queries, device=device)
        history = torch.zeros(min(RECORDED, self.queries))
        for first in range(0, len(images), crafting.PER_IMAGE_BATCH):
            index = torch.arange(first, min(first + crafting.PER_IMAGE_BATCH, len(images)), device=device)
            history += self._on_batch(task, index, draws.chosen(index), found, spent) * len(index) / len(images)
        return Patch(
            found.textures,
            torch.ones_like(found.textures[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=upright(found.rows, found.columns) if self.location == "searched" else None,
            queries=spent,
        )

    def _on_batch(
        self, task: CraftTask, index: torch.Tensor, draws: ImageDraws, found: _State, spent: torch.Tensor
    ) -> torch.Tensor:
        """Search for some images; writes into `found` and `spent`, returns the recorded mean losses."""
        every, given = task.require_places()
        side, last = found.textures.shape[-1], every.side - found.textures.shape[-1]
        target = int(goal_classes(task.goals))
        best = self._start(draws, given[index.cpu()].to(index.device), side, last)
        history, losses = [], torch.full((len(index),), math.inf, device=index.device)
        active = torch.arange(len(index), device=index.device)
        for query in range(self.queries):
            if len(active):
                pixels, labels = to_float(every.pixels[index[active]]), every.labels[index[active]]
                tried = best if query == 0 else self._proposal(best, draws, query, last, targeted=target >= 0)
                ones = torch.ones_like(tried.textures[:1, :1])
                logits = task.network(paste(pixels, tried.textures, ones, upright(tried.rows, tried.columns))).float()
                targets = torch.full_like(labels, target)
                objective = cross_entropy if isinstance(task.goal, Targeted) else logit_difference
                tried.losses = objective(logits, labels, targets)
                if not bool(torch.isfinite(tried.losses).all()):
                    raise AttackError(f"the loss is not finite at query {query + 1} of {self.queries}")
                won = succeeded(logits, labels, targets)
                _keep(best, tried, (tried.losses <= best.losses) | won)
                losses[active] = best.losses
                spent[index[active[won]]] = query + 1
                _store(found, best, index[active])
                left = ~won
                if bool(won.any()):
                    active, draws = active[left], draws.chosen(left)
                    best = _State(*(value[left] for value in vars(best).values()))
            if (query + 1) * RECORDED // self.queries > query * RECORDED // self.queries or self.queries <= RECORDED:
                history.append(float(losses.mean()))
                done = (int(index[0]) + (query + 1) / self.queries * len(index)) / len(every)
                task.progress(done, {"loss": history[-1], "asr": 100 * (1 - len(active) / len(index))})
        return torch.tensor(history)

    def _start(self, draws: ImageDraws, given: Placement, side: int, last: int) -> _State:
        """A patch of random squares, at a random place where places are searched."""
        textures = torch.zeros(len(draws), 3, side, side, device=draws.seeds.device)
        largest = max(1, math.isqrt(side))
        for _ in range(START_SQUARES):
            size = 1 + draws.integers(largest)
            textures = _painted(textures, draws, size, _colours(draws))
        rows, columns = given.rows, given.columns
        if self.location == "searched":
            rows, columns = draws.integers(last + 1), draws.integers(last + 1)
        return _State(textures, rows, columns, torch.full((len(draws),), math.inf, device=textures.device))

    def _proposal(self, best: _State, draws: ImageDraws, query: int, last: int, *, targeted: bool) -> _State:
        """The best patch with one change."""
        if self.location == "searched" and query % (10 if targeted else 4) == 0:
            reach = FARTHEST * (1 - query / self.queries) * (last + best.textures.shape[-1])
            steps = ((2 * draws.uniform(2) - 1) * max(1.0, reach)).round().long()
            rows, columns = (best.rows + steps[:, 0]).clamp(0, last), (best.columns + steps[:, 1]).clamp(0, last)
            return _State(best.textures, rows, columns, best.losses)
        alpha = self.alpha if self.alpha is not None else (0.1 if targeted else 0.4)
        halved = sum(query / self.queries * 10_000 > point for point in HALVINGS)
        side = max(1, int(math.sqrt(alpha / 2**halved) * best.textures.shape[-1]))
        size = torch.full((len(draws),), side, device=best.rows.device)
        if side > 1:
            textures = _painted(best.textures, draws, size, _colours(draws))
        else:
            textures = _repainted_pixel(best.textures, draws)
        return _State(textures, best.rows, best.columns, best.losses)


def _colours(draws: ImageDraws) -> torch.Tensor:
    """(B, 3) random corners of the colour cube."""
    return draws.integers(2, 3).float()


def _painted(textures: torch.Tensor, draws: ImageDraws, size: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Each texture with one square of its own size (B,) at a random place in one colour (B, 3)."""
    side = textures.shape[-1]
    corner = (draws.uniform(2).double() * (side - size + 1).view(-1, 1)).long()
    along = torch.arange(side, device=textures.device)
    rows, columns = ((along >= start.view(-1, 1)) & (along < (start + size).view(-1, 1)) for start in corner.T)
    inside = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return torch.where(inside, colours[:, :, None, None], textures)


def _repainted_pixel(textures: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """Each texture with one random pixel in another colour than it has."""
    side = textures.shape[-1]
    place = draws.integers(side * side)
    pixel = textures.flatten(2).gather(2, place.view(-1, 1, 1).expand(-1, 3, 1)).squeeze(2).long()
    code = pixel[:, 0] * 4 + pixel[:, 1] * 2 + pixel[:, 2]
    other = (code + 1 + draws.integers(7)) % 8
    colours = torch.stack((other // 4, other // 2 % 2, other % 2), dim=1).float()
    chosen = (torch.arange(side * side, device=textures.device) == place.view(-1, 1)).view(-1, 1, side, side)
    return torch.where(chosen, colours[:, :, None, None], textures)


def _keep(best: _State, tried: _State, keep: torch.Tensor) -> None:
    best.textures = torch.where(keep.view(-1, 1, 1, 1), tried.textures, best.textures)
    best.rows, best.columns, best.losses = (
        torch.where(keep, new, old)
        for new, old in ((tried.rows, best.rows), (tried.columns, best.columns), (tried.losses, best.losses))
    )


def _store(found: _State, best: _State, index: torch.Tensor) -> None:
    found.textures[index], found.rows[index], found.columns[index] = best.textures, best.rows, best.columns
    found.losses[index] = best.losses
