"""Sparse-RS, random search for one image's patch from scores alone: what it finds and gradients do not, they hide.

Croce, Andriushchenko, Singh, Flammarion, Hein 2022 (arXiv 2006.12834), the section on image-specific patches.

Every query shows one change of the best patch so far, which is kept if it lowers the loss or succeeds:

    every m-th query  the patch moves by up to a share of the image's side that falls from 3/4 to 0; m is 4, and 10
                      when targeted
    else              a square of sqrt(alpha) of the patch's side takes one random colour of {0, 1}^3. A square of one
                      pixel always changes colour, and in the second half of its time changes a single channel

alpha starts at 0.4, and at 0.1 when targeted, and is halved at fixed points of the budget: the authors', of 10,000
queries, rescaled. The start is a patchwork of squares. The loss is the margin, and when targeted the cross-entropy.
An image leaves at its first success, with the number of queries that it took.

The defaults are the paper's, its budget being the untargeted one, 10,000 queries (50,000 targeted). All is as in the
authors' code, but for two things that limited it: places here reach the last row and column from the start, and every
image draws squares of its own, where theirs shared one position.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.loops import goal_by_goal
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes, margin, succeeded
from qpatchbench.ops.patches.colour_squares import patchwork, with_another_colour, with_channel_flipped, with_square
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import CraftTask, Patch

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
FARTHEST = 0.75  # largest move at the start, as a share of the image's side
RECORDED = 100  # points of the history


class _Patches(NamedTuple):
    """The best patch so far of B images: textures (B, 3, s, s), rows, columns and losses (B,)."""

    textures: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    losses: torch.Tensor

    def at(self, index: torch.Tensor) -> _Patches:
        return _Patches(*(value[index] for value in self))

    def put(self, index: torch.Tensor, other: _Patches) -> _Patches:
        """With those of `other` in the places `index`."""
        return _Patches(*(own.index_put((index,), new) for own, new in zip(self, other, strict=True)))


class SparseRs(Attack):
    """Random search on a patch and its place, one image at a time."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "scores"
    learns: ClassVar[bool] = False
    version: ClassVar[int] = 2

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

    def square_sides(self, side: int, *, targeted: bool) -> list[int]:
        """Pixels along the square that each query changes on a patch of `side` pixels; 0: one channel of one pixel."""
        alpha = self.alpha if self.alpha is not None else (0.1 if targeted else 0.4)
        sizes = []
        for query in range(self.queries):
            halved = sum(int(query / self.queries * 10_000) > point for point in HALVINGS)
            sizes.append(max(1, int((alpha / 2**halved) ** 0.5 * side)))
        first = sizes.index(1) if 1 in sizes else self.queries - 1
        halfway = first + (self.queries - first) // 2
        return [0 if size == 1 and query >= halfway else size for query, size in enumerate(sizes)]

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        draws = ImageDraws.for_task(task, forked(task.generator))
        parts, spent, history = [], [], torch.zeros(min(RECORDED, self.queries))
        for part in loops.image_parts(len(images), images.side):
            index = torch.arange(part.start, part.stop, device=draws.seeds.device)
            found, queries, losses = self._on_batch(task, index, draws.chosen(index))
            history += losses * len(index) / len(images)
            parts.append(found)
            spent.append(queries)
        found = _Patches(*(torch.cat(values) for values in zip(*parts, strict=True)))
        return Patch(
            found.textures,
            torch.ones_like(found.textures[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=upright(found.rows, found.columns) if self.location == "searched" else None,
            queries=torch.cat(spent),
        )

    def _on_batch(
        self, task: CraftTask, index: torch.Tensor, draws: ImageDraws
    ) -> tuple[_Patches, torch.Tensor, torch.Tensor]:
        """The patches of some images, the queries (B,) that they took and the recorded mean losses."""
        images, _ = task.require_places()
        pixels, labels = to_float(images.pixels[index]), images.labels[index]
        target = int(goal_classes(task.goals))
        objective = margin if target < 0 else cross_entropy
        found = tried = self._start(task, index, draws)
        sizes = self.square_sides(self.size.side(images.side), targeted=target >= 0)
        spent, history = torch.full_like(index, self.queries), list[float]()
        active = torch.arange(len(index), device=index.device)
        for query in range(self.queries):
            if len(active):
                best = found.at(active)
                if query > 0:
                    tried = self._proposal(best, draws, query, sizes[query], images.side, targeted=target >= 0)
                ones = torch.ones_like(tried.textures[:1, :1])
                logits = task.network(paste(pixels, tried.textures, ones, upright(tried.rows, tried.columns))).float()
                targets = torch.full_like(labels, target)
                tried = tried._replace(losses=objective(logits, labels, targets))
                if not bool(torch.isfinite(tried.losses).all()):
                    raise AttackError(f"the loss is not finite at query {query + 1} of {self.queries}")
                won = succeeded(logits, labels, targets)
                keep = (tried.losses < best.losses) | won
                found = found.put(active[keep], tried.at(keep))
                if bool(won.any()):
                    spent[active[won]] = query + 1
                    active, draws = active[~won], draws.chosen(~won)
                    pixels, labels = pixels[~won], labels[~won]
            recorded = (query + 1) * RECORDED // max(RECORDED, self.queries)
            if recorded > len(history):
                history.append(float(found.losses.mean()))
                done = (int(index[0]) + (query + 1) / self.queries * len(index)) / len(images)
                task.progress(done, {"loss": history[-1], task.success_name: 100 * (1 - len(active) / len(index))})
        return found, spent, torch.tensor(history)

    def _start(self, task: CraftTask, index: torch.Tensor, draws: ImageDraws) -> _Patches:
        """Patches that nothing is known of, at random places where places are searched."""
        images, given = task.require_places()
        side = self.size.side(images.side)
        textures = patchwork(side, draws)
        if self.location == "searched":
            rows, columns = draws.integers(images.side - side + 1, 2).unbind(dim=1)
        else:
            rows, columns = (place.to(index.device)[index] for place in (given.rows, given.columns))
        return _Patches(textures, rows, columns, torch.full_like(textures[:, 0, 0, 0], torch.inf))

    def _proposal(
        self, best: _Patches, draws: ImageDraws, query: int, size: int, image_side: int, *, targeted: bool
    ) -> _Patches:
        """The best patches with one change each: of the place, or of a square of `size` pixels."""
        reach = int(FARTHEST * (1 - query / self.queries) * image_side)
        if self.location == "searched" and query % (10 if targeted else 4) == 0 and reach > 0:
            moves = draws.integers(2 * reach + 1, 2) - reach
            places = torch.stack((best.rows, best.columns), dim=1) + moves
            rows, columns = places.clamp(0, image_side - best.textures.shape[-1]).unbind(dim=1)
            return best._replace(rows=rows, columns=columns)
        if size > 1:
            return best._replace(textures=with_square(best.textures, size, draws))
        change = with_another_colour if size == 1 else with_channel_flipped
        return best._replace(textures=change(best.textures, draws))
