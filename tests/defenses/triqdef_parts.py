"""What the tests of TriQDef share: short ways to a defense, a pool, a step and a network with switchable widths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from qpatchbench.defenses.base import Step
from qpatchbench.defenses.triqdef import TriQDef
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.training.switching import Switch
from qpatchbench.types import Bits, Patch, Targeted
from tests.training.conftest import SIDE, TinyNet

ALL = tuple(map(Bits.parse, (32, 8, 5, 4, 2)))
EIGHT, FOUR, TWO = ALL[1], ALL[3], ALL[4]
ONE_LAYER = ("conv",)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def triqdef(**fields: object) -> TriQDef:
    return TriQDef.model_validate({"name": "triqdef", "layers": ONE_LAYER, "bact": False, **fields})


def patches(*goals: int, size: int = 3, seed: int = 9) -> Patch:
    textures = torch.rand(len(goals), 3, size, size, generator=draws(seed))
    return Patch(textures, torch.ones(len(goals), 1, size, size), tuple(map(Targeted, goals)))


POOL = (patches(0, 1, 2), patches(3, size=2))


def step(*bits: Bits, index: int = 0, pool: tuple[Patch, ...] = POOL) -> Step:
    return Step(0.9, bits, draws(), index, 0, pool)


class Still(TinyNet):
    """Without the layer that draws at random."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)


def switch(*bits: Bits, build: Callable[[], nn.Module] = Still, **fields: object) -> Switch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
    prepare(module, bits, Qat.model_validate({"name": "qat", "bits": bits, **fields}))
    initialize(module, torch.rand(16, 3, SIDE, SIDE, generator=draws(3)))
    return Switch(module.train(), module, True)
