"""PatchCleanser (Xiang, Mahloujifar, Mittal 2022, USENIX Security, arXiv 2108.09135, algorithms 1 and 2).

Masks of one size are slid over the image so that at least one covers any patch of the stated size, wherever it lies:

    stride s = ceil((n - p + 1) / k),   mask side m = p + s - 1,   places 0, s, 2s, ..., n - m       section 3.3

With one mask: where the network answers alike under all of them, that is the answer. Otherwise, for each mask whose
answer differs from the majority's, a second mask is laid over as well: if the answer then stays, whatever the second
mask, it is the answer. Else the majority's is.

An image whose answer is right under every pair of masks is certified: no patch of that size changes it. Masked pixels
have the mean colour of the calibration images, as those that are 0 after normalisation have in the authors' code. Where
two answers are equally frequent, the lower class counts as the majority (own choice; the certificate does not depend
on it).

What attacks follow is exact where it can be: the logits are the mean over all single masks, and the class that the
algorithm decides for is raised one above the highest, where it is not the highest already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

import torch
from pydantic import Field

from qpatchbench.errors import QPatchBenchError
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.types import Network, Size


class PatchCleanser(Preprocessor):
    """Answers what stays the answer whatever a second mask hides; certifies where no patch can change that."""

    size: Size = Field(default=Size(percent=4), description="largest square patch that a certificate holds against")
    masks: int = Field(default=6, ge=1, le=32, description="masks along each side, k; more are smaller and cost more")

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The mean colour (3,), which masked pixels have."""
        return {"colour": calibration.mean(dim=(0, 2, 3))}

    @property
    def answers_at_once(self) -> int:
        """One under each mask, of which the logits are the mean."""
        return self.masks**2

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """The images themselves: it is the answers that are cleansed."""
        return images

    def certified_side(self, image_side: int) -> int:
        """Side of the largest patch that certificates hold against, pixels."""
        return self.size.side(image_side)

    def answer(self, network: Network, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, K), highest for the class decided for.

        Raises:
            QPatchBenchError: the patch is larger than the images.
        """
        kept = self._kept(images)
        single = torch.stack([network(masked(images, keep, state["colour"])) for keep in kept])
        with torch.no_grad():
            chosen = self._decided(network, images, kept, single.argmax(dim=2), state["colour"])
        smooth = single.mean(dim=0)
        own, highest = smooth.gather(1, chosen[:, None]), smooth.max(dim=1, keepdim=True).values
        raised = torch.where(own < highest, highest + 1 - own, torch.zeros_like(own)).detach()
        return smooth + raised * torch.nn.functional.one_hot(chosen, smooth.shape[1]).to(smooth)

    def certified(
        self, network: Network, images: torch.Tensor, labels: torch.Tensor, state: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """(B,) bool: which images no patch up to the stated size can turn from their label (theorem 1)."""
        kept, certified = self._kept(images), torch.ones(len(images), dtype=torch.bool, device=images.device)
        with torch.no_grad():
            for first, second in pairs(len(kept)):
                left = certified.nonzero().flatten()
                if not len(left):
                    break
                keep = kept[first] & kept[second]
                certified[left] = network(masked(images[left], keep, state["colour"])).argmax(dim=1) == labels[left]
        return certified

    def _kept(self, images: torch.Tensor) -> torch.Tensor:
        """Which pixels each mask leaves, (M, 1, H, W) bool."""
        rows, columns = images.shape[-2:]
        side = self.certified_side(min(rows, columns))
        if side > min(rows, columns):
            raise QPatchBenchError(
                f"{self.title}: expected a patch no larger than the images, {rows} x {columns} pixels, found {side}; "
                "set size to less"
            )
        down, across = (covering(length, side, self.masks) for length in (rows, columns))
        hidden = (down[:, None, None, :, None] & across[None, :, None, None, :]).flatten(0, 1)
        return ~hidden.to(images.device)

    def _decided(
        self, network: Network, images: torch.Tensor, kept: torch.Tensor, single: torch.Tensor, colour: torch.Tensor
    ) -> torch.Tensor:
        """Algorithm 1: answers (M, B) under single masks -> the class decided for, (B,)."""
        majority = most_frequent(single.T)
        chosen, open_ = majority.clone(), torch.ones_like(majority, dtype=torch.bool)
        for mask, answers in enumerate(single):
            asked = (open_ & (answers != majority)).nonzero().flatten()
            for second in kept:
                if not len(asked):
                    break
                again = network(masked(images[asked], kept[mask] & second, colour)).argmax(dim=1)
                asked = asked[again == answers[asked]]
            chosen[asked], open_[asked] = answers[asked], False
        return chosen


def covering(length: int, side: int, masks: int) -> torch.Tensor:
    """(k, length) bool: intervals along one side of an image such that any `side` pixels in a row lie within one.

    >>> covering(6, 2, 3).int().tolist()
    [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    """
    stride = ceil((length - side + 1) / masks)
    width = min(side + stride - 1, length)
    starts = torch.tensor([*range(0, length - width, stride), length - width]).view(-1, 1)
    places = torch.arange(length)
    return (places >= starts) & (places < starts + width)


def most_frequent(answers: torch.Tensor) -> torch.Tensor:
    """Answers (B, M) int64 -> the most frequent one of each row (B,), the lowest of several.

    >>> most_frequent(torch.tensor([[2, 1, 2], [2, 1, 0]])).tolist()
    [2, 0]
    """
    votes = (answers[:, :, None] == answers[:, None, :]).sum(dim=2)
    beaten = votes < votes.max(dim=1, keepdim=True).values
    return answers.masked_fill(beaten, torch.iinfo(answers.dtype).max).min(dim=1).values


def masked(images: torch.Tensor, keep: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) with `colour` (3,) wherever `keep` (1, H, W) is false."""
    return torch.where(keep, images, colour.to(images).view(3, 1, 1))


def pairs(count: int) -> Iterator[tuple[int, int]]:
    """All pairs of masks, a mask with itself first, because these say most for the least work."""
    yield from ((first, first) for first in range(count))
    yield from ((first, second) for first in range(count) for second in range(first + 1, count))
