"""Adversarial patch training (Rao, Stutz, Schiele 2020, arXiv 2005.02313), which TriQDef and QADT-R call PBAT.

The second half of every batch gets one patch per image, optimised in texture and, in two variants, in place against
the network as it stands, in eval mode; then one pass in training mode minimises the cross-entropy of the clean and of
the patched half (section 3.2). The paper's variants:

    {name: pbat, location: fixed}                AT-Fixed
    {name: pbat}                                 AT-Rand
    {name: pbat, location: random_optimised}     AT-RandLO, a random direction tried after each step
    {name: pbat, location: fully_optimised}      AT-FullLO, all four
    {name: pbat, steps: 0}                       Occlusion: noise that is not optimised

25 steps of 0.1 along the sign of the gradient of the log-probability, a patch of 8 x 8 pixels, a stride of 2 and a
share of one half are the paper's for CIFAR-10. The authors learn by SGD with weight decay 1e-3 and a rate of
0.075 that falls by 5 % per epoch, for 200 epochs. Deviations from their code
(github.com/sukrutrao/Adversarial-Patch-Training):

- patches lie anywhere, the last row and column included; theirs keep clear of the central 10 x 10 pixels of CIFAR
  images (`excluded: [11, 11, 10, 10]`), as their evaluation does. The patches of this benchmark do not;
- content moves with its patch, which their code intends but does not do, and a move is compared with staying at the
  same content, which costs a forward pass more per step; the last update is judged too. The best iterate is kept;
- the patched part is weighted by its share of the batch, not, as in their code, by that of the clean part, which
  is the same at one half only.

The paper knows no quantization. `pbat` attacks and trains through the fake quantizers at one fixed bit-width;
`pbat_float` is the paper's own float training, to be deployed with fp, ptq or dynamic.
"""  # noqa: D214 (a list of suite lines)

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from qpatchbench.defenses.base import Batch, Defense, FixedBitsDefense, Step, SwitchableNetwork
from qpatchbench.errors import AttackError, TrainingError
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.crafting.moving_patches import Moves, moving_patches
from qpatchbench.ops.patches.locating import Box, allowed_places, box_misfits, random_places, upright
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.ops.training.adversarial_batches import (
    cross_entropies,
    drawn_bits,
    fitting_side,
    least_batch,
    partly_attacked,
)
from qpatchbench.types import Announced, Bits, Losses, Network, Placement, Size

DIRECTIONS = {"fixed": 0, "random": 0, "random_optimised": 1, "fully_optimised": 4}


class FloatPatchAdversarialTraining(Defense):
    """Adversarial training with patches on the float network."""

    quantization_aware: ClassVar[bool] = False

    size: Size = Field(
        default=Size(pixels=8), description="side of the square patch in pixels, or the share of the image it covers"
    )
    location: Literal["fixed", "random", "random_optimised", "fully_optimised"] = Field(
        default="random",
        description="where patches lie: all at `place`; at random; at random and then moved in a random direction, or "
        "in the best of four, wherever that raises the loss",
    )
    place: tuple[int, int] = Field(
        default=(3, 3),
        description="row and column of the patch where the location is fixed",
        json_schema_extra={"unit": "pixels"},
    )
    steps: int = Field(default=25, ge=0, description="attack steps per training step; 0 trains on random occlusion")
    step_size: float = Field(default=0.1, gt=0, le=1, description="change of a pixel of the patch per step")
    stride: int = Field(default=2, ge=0, description="length of a move", json_schema_extra={"unit": "pixels"})
    adversarial_share: float = Field(default=0.5, ge=0, le=1, description="share of a batch that is patched")
    excluded: tuple[int, int, int, int] | None = Field(
        default=None,
        description="row, column, height and width of a box that no patch may touch, in pixels; the authors' for "
        "CIFAR is [11, 11, 10, 10]",
    )

    @field_validator("place")
    @classmethod
    def _a_place(cls, place: tuple[int, int]) -> tuple[int, int]:
        if min(place) < 0:
            raise ValueError(f"expected row, column >= 0, found {list(place)}")
        return place

    @field_validator("excluded")
    @classmethod
    def _a_box(cls, excluded: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if excluded is not None and (min(excluded[:2]) < 0 or min(excluded[2:]) < 1):
            raise ValueError(f"expected row, column >= 0 and height, width >= 1, found {list(excluded)}")
        return excluded

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The box leaves no room, or the fixed place is none."""
        side, box = self.size.side(known.side), None if self.excluded is None else Box(*self.excluded)
        without_room = [*box_misfits(side, known.side, self.excluded)]
        yield from without_room
        if self.location == "fixed" and side <= known.side and not without_room:
            flaw = self._no_place(allowed_places((known.side, known.side), (side, side), box))
            yield from [("place", flaw)] if flaw else []

    @property
    def least_batch(self) -> int:
        """As many as have one in the attacked share."""
        return least_batch(self.adversarial_share)

    def baseline(self) -> Defense:
        """No image is attacked."""
        return self.model_copy(update={"adversarial_share": 0.0})

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Training at every width, and the attack on the patched share of the batch."""
        moves = DIRECTIONS[self.location] + 1 if DIRECTIONS[self.location] and self.stride else 0
        attack = self.steps * (3 + moves) + 1 if self.steps else 0
        return 3.0 * len(bits) + self.adversarial_share * attack

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy of the clean and of the patched part, weighted by their shares of the batch.

        Raises:
            TrainingError: the batch is too small for a patched part, the patch does not fit, or the network's output
                is not finite.
            AttackError: the excluded box leaves no room.
        """
        width = drawn_bits(step.bits, step.draws("width"))

        def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with network.evaluating():
                return self.patched(network.at(width), images, labels, step)

        partly = partly_attacked(batch.images, batch.labels, self.adversarial_share, attack)
        return cross_entropies(network.at, step.bits, partly, "patched")

    def patched(self, network: Network, images: torch.Tensor, labels: torch.Tensor, step: Step) -> torch.Tensor:
        """The images (B, 3, H, W), each with the patch of the lowest probability of its label among all iterates."""
        side = fitting_side(self.size, images)
        box = None if self.excluded is None else Box(*self.excluded)
        allowed = allowed_places((images.shape[-2], images.shape[-1]), (side, side), box).to(images.device)
        draws = ImageDraws.of(len(images), step.draws("patch"), images.device)
        textures, placement = draws.uniform(images.shape[1], side, side), self._start(allowed, draws)
        if self.steps:
            moves = Moves(allowed, self.stride, DIRECTIONS[self.location])
            try:
                textures, placement, *_ = moving_patches(
                    network, cross_entropy, images, labels, torch.full_like(labels, -1), textures, placement,
                    moves=moves, draws=draws, steps=self.steps, step_size=self.step_size, stored=False,
                )  # fmt: skip
            except AttackError as error:
                raise TrainingError(
                    f"{self.title}: {error}. A smaller learning_rate or a gradient_clip usually helps"
                ) from error
        return paste(images, textures, torch.ones_like(textures[:1, :1]), placement)

    def _start(self, allowed: torch.Tensor, draws: ImageDraws) -> Placement:
        if self.location != "fixed":
            return random_places(allowed, draws)
        if flaw := self._no_place(allowed):
            raise TrainingError(f"{self.title}: {flaw}")
        row, column = self.place
        rows = torch.full((len(draws),), row, device=allowed.device)
        return upright(rows, torch.full_like(rows, column))

    def _no_place(self, allowed: torch.Tensor) -> str:
        """What is wrong with the fixed place, given (rows, columns) bool of allowed ones; "" for nothing."""
        (row, column), last = self.place, [size - 1 for size in allowed.shape]
        if row <= last[0] and column <= last[1] and bool(allowed[row, column]):
            return ""
        return (
            f"expected a place in rows 0..{last[0]} and columns 0..{last[1]}, where the patch is inside the image and "
            f"beside the excluded box, found {list(self.place)}"
        )


class PatchAdversarialTraining(FixedBitsDefense, FloatPatchAdversarialTraining):
    """Adversarial training with patches through fake quantizers, one network per bit-width."""

    version: ClassVar[int] = 2
    quantization_aware: ClassVar[bool] = True
