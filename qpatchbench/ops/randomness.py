"""Generators derived from (seed, role): two roles never share a stream, and no global generator is used.

`ImageDraws` gives every image a stream of its own, all drawn in one vectorised operation: what is drawn for an image
does not depend on which other images are worked on beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from qpatchbench.types import CraftTask


def derive_seed(seed: int, *role: object) -> int:
    """A 63-bit seed that depends on every part of the role."""
    text = "/".join(str(part) for part in (seed, *role))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive_generator(seed: int, *role: object) -> torch.Generator:
    """A CPU generator for one role; draws are made on the CPU so that every device sees the same ones."""
    return torch.Generator().manual_seed(derive_seed(seed, *role))


def forked(generator: torch.Generator) -> torch.Generator:
    """A new generator seeded by one draw: however much is drawn from it, `generator` has moved by one draw."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))


@dataclass
class ImageDraws:
    """A stream of uniform numbers for each of N images, by counting and hashing (splitmix64, Steele et al. 2014).

    Attributes:
        seeds: (N,) int64, one per image; on the device where the numbers are wanted.
        drawn: how many numbers every stream has given.
    """

    seeds: torch.Tensor
    drawn: int = 0

    @classmethod
    def of(cls, count: int, generator: torch.Generator, device: torch.device) -> ImageDraws:
        """Fresh streams; the first n of them do not depend on `count`."""
        return cls(torch.randint(2**62, (count,), generator=generator).to(device))

    @classmethod
    def for_task(cls, task: CraftTask, generator: torch.Generator) -> ImageDraws:
        """A stream for every attacked image of a task; another `generator` gives other streams."""
        device = task.images.pixels.device
        if task.seeds is None:
            return cls.of(len(task.images), generator, device)
        # Images handed on by a compound attack keep streams of their own, whichever others were handed on.
        return cls((task.seeds ^ torch.randint(2**62, (1,), generator=generator)).to(device))

    def __len__(self) -> int:
        return len(self.seeds)

    def uniform(self, *shape: int) -> torch.Tensor:
        """(N, *shape) float32 in [0, 1); the next prod(shape) numbers of every stream."""
        numbers = 1
        for size in shape:
            numbers *= size
        counter = torch.arange(self.drawn + 1, self.drawn + numbers + 1, device=self.seeds.device)
        self.drawn += numbers
        mixed = self.seeds.view(-1, 1) + counter * _GOLDEN
        mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
        mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
        mixed = mixed ^ _shifted(mixed, 31)
        return (_shifted(mixed, 40).to(torch.float32) / 2**24).view(len(self), *shape)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        """(N, *shape) int64, uniform in 0..bound-1, bound at most 2^20."""
        return (self.uniform(*shape).double() * bound).long()

    def chosen(self, index: torch.Tensor) -> ImageDraws:
        """The streams of some images, (M,) int64 or (N,) bool, from where they are now."""
        return ImageDraws(self.seeds[index], self.drawn)


# The constants of splitmix64 as signed 64-bit integers; products wrap around.
_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
