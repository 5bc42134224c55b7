"""PatchAttack finds what is planted from scores alone, and counts what it asks."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.attacks.patchattack import PatchAttack
from qpatchbench.ops.crafting.losses import succeeded
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import CraftTask, ImageSet, Network, Patch, Untargeted

SIDE, SIZE = 12, 4


def images(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))


def striped(count: int) -> ImageSet:
    """Images to learn from: half of them black and white stripes, the others plain grey."""
    plain = images(count)
    rows = torch.arange(SIDE) % 2 * 255
    pixels = torch.full_like(plain.pixels, 128)
    pixels[::2] = rows.to(torch.uint8).view(1, 1, SIDE, 1)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(f"craft {number}" for number in range(count)))


def task(network: Network, attacked: ImageSet) -> CraftTask:
    places = sample_placement(len(attacked), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    return CraftTask((Scores(network),), (Untargeted(),), striped(16), generator, attacked=attacked, placement=places)


def hits(network: Network, patch: Patch, attacked: ImageSet) -> torch.Tensor:
    assert patch.placement is not None
    logits = network(paste(to_float(attacked.pixels), patch.textures, patch.masks, patch.placement))
    return succeeded(logits, attacked.labels, torch.full_like(attacked.labels, -1))


def stripes(pasted: torch.Tensor) -> torch.Tensor:
    """Class 1 where rows alternate strongly somewhere in a 4x4 window; says how strongly."""
    contrast = (pasted[:, :, 1:] - pasted[:, :, :-1]).abs().mean(dim=1, keepdim=True)
    most = torch.nn.functional.avg_pool2d(contrast, (SIZE - 1, SIZE), 1).amax(dim=(1, 2, 3))
    return torch.stack([torch.full_like(most, 0.75), most], dim=1) * 10


def bright(pasted: torch.Tensor) -> torch.Tensor:
    """Class 1 where some 4x4 window is nearly white; says how bright the brightest is."""
    most = torch.nn.functional.avg_pool2d(pasted.mean(dim=1, keepdim=True), SIZE, 1).amax(dim=(1, 2, 3))
    return torch.stack([torch.full_like(most, 0.9), most], dim=1) * 10


@pytest.mark.numerical
@pytest.mark.parametrize(("agent", "network"), [("tpa", stripes), ("mpa", bright)])
def test_a_planted_trigger_is_found_and_queries_are_counted(agent: str, network: Network) -> None:
    attacked = images(12)
    assert not succeeded(network(to_float(attacked.pixels)), attacked.labels, torch.full((12,), -1)).any()
    asked = task(network, attacked)
    attack = PatchAttack.model_validate(
        {"name": "patchattack", "size": SIZE, "agent": agent, "queries": 2000, "targets": "untargeted"}
    )
    patch = attack.craft(asked)
    assert float(hits(network, patch, attacked).float().mean()) > 0.9
    oracle = asked.network
    assert isinstance(oracle, Scores)
    assert patch.queries is not None
    assert int(patch.queries.sum()) == oracle.queries, "every image shown is counted, and no more"
    assert int(patch.queries.max()) <= 2000
    assert torch.equal((patch.textures * 255).round() / 255, patch.textures), "as a picture file stores it"


def test_no_gradient_of_the_victim_is_taken() -> None:
    class Untouchable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, values: torch.Tensor) -> torch.Tensor:
            """Pass on."""
            return values.clone()

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
            """Never."""
            raise AssertionError("a gradient of the victim was taken")

    weight = torch.ones(1, requires_grad=True)

    def victim(pasted: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = Untouchable.apply(bright(pasted) * weight)  # type: ignore[no-untyped-call]  # of torch
        return logits

    attacked = images(4)
    attack = PatchAttack.model_validate({"name": "patchattack", "size": SIZE, "queries": 150, "targets": "untargeted"})
    attack.craft(task(victim, attacked))
    assert weight.grad is None
