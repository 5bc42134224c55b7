"""Promises about the effect of an attack: it goes the right way, reaches every place, and survives a picture file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.testing.fixtures.attack_tasks import craft, crafted, goal_losses, ground_for, places_for, task_for
from qpatchbench.testing.fixtures.networks_and_images import CLASSES
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.testing.require import DoesNotApplyError, require
from qpatchbench.types import Goal, ImageSet, Patch, Targeted, Untargeted

OPTIMUM = 0.95
OPTIMUM_STEPS, HISTORY_STEPS = 250, 30
SIDE = 8


def the_reported_loss_falls(attack: Attack, seed: int) -> str:
    """More steps lower the loss of the objective that the attack reports; one entry per step."""
    if attack.access != "gradient" or "steps" not in type(attack).model_fields:
        raise DoesNotApplyError("it follows no gradient for a number of `steps`")
    own = crafted(attack, seed).history
    if len(own) != attack.steps:  # type: ignore[attr-defined]  # asked for above
        raise DoesNotApplyError(f"its history has {len(own)} entries, not one for each of its steps")
    network, images = ground_for(attack, seed, count=64)
    # Of one class, so that batches differ little.
    images = images.chosen(images.labels == CLASSES - 1)
    history = craft(_changed(attack, steps=HISTORY_STEPS), network, images).history
    every = f"{HISTORY_STEPS} entries of the history for {HISTORY_STEPS} steps"
    require(len(history) == HISTORY_STEPS, attack, every, len(history))
    first, last = (sum(part) / 5 for part in (history[:5], history[-5:]))
    expected = "a loss that falls over the steps (it is minimised); look at the sign of the step"
    require(last < first, attack, expected, f"{first:.4g} in the first five, {last:.4g} in the last")
    return f"from {first:.3g} to {last:.3g} in {HISTORY_STEPS} steps"


def the_patch_beats_noise(attack: Attack, seed: int) -> str:
    """The goal is nearer under the patch than under uniform noise at the same places, measured by the kit."""
    if attack.access == "none":
        raise DoesNotApplyError("its access is 'none': it pursues no goal")
    if attack.covers == "image":
        raise DoesNotApplyError("it changes the whole image a little; noise there is another image")
    network, images = ground_for(attack, seed)
    patch = crafted(attack, seed)
    own = float(goal_losses(attack, network, images, patch).mean())
    draws = derive_generator(seed, "noise")
    noisy = []
    for _ in range(4):
        noise = torch.rand(patch.textures.shape, generator=draws)
        noisy.append(float(goal_losses(attack, network, images, replace(patch, textures=noise)).mean()))
    expected = "a goal loss (-log P(target), or log P(label)) below that of noise; look at the sign of the step"
    require(own < sum(noisy) / len(noisy), attack, expected, f"{own:.4g}, noise {sum(noisy) / len(noisy):.4g}")
    return f"goal loss {own:.3g}, noise {sum(noisy) / len(noisy):.3g}"


def the_optimum_is_reached(attack: Attack, seed: int) -> str:
    """On a linear network, whose best patch is known exactly, at least 95 % of it is reached."""
    if attack.access != "gradient" or attack.covers != "square":
        raise DoesNotApplyError("only attacks on a square that follow a gradient are held to the optimum")
    if attack.needs_attention:
        raise DoesNotApplyError("a linear network has no attention")
    if "steps" not in type(attack).model_fields:
        raise DoesNotApplyError("it has no field `steps` to give it enough of them")
    # The cross-entropy bends where margins are large, so its best patch is another; small weights keep them small.
    weight = 0.02 * torch.randn(2, 3 * SIDE * SIDE, generator=derive_generator(seed, "slope"))
    network = linear_network(weight).requires_grad_(False)
    count = 256 if attack.kind == "universal" else 16
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=derive_generator(seed, "p"), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))
    goal: Goal = Untargeted() if attack.targets == "untargeted" else Targeted(1)
    able = _changed(attack, steps=OPTIMUM_STEPS, batch_size=32, size=4)
    patch = able.craft(replace(task_for(able, network, images), goals=(goal,)))
    share = _share_of_optimum(able, network, images, patch)
    expected = f"at least {OPTIMUM:.0%} of the best margin on a linear network; follow the gradient for all `steps`"
    require(share >= OPTIMUM, attack, expected, f"{share:.1%} after {OPTIMUM_STEPS} steps")
    return f"{share:.1%} of the exact optimum"


def _share_of_optimum(attack: Attack, network: torch.nn.Module, images: ImageSet, patch: Patch) -> float:
    """The margin that the patch adds to a black one, of the most that any texture on its mask adds."""
    if attack.kind == "per_image":
        place = patch.placement if patch.placement is not None else places_for(attack, images)
        textures, masks, shown = patch.textures, patch.masks, to_float(images.pixels)
    else:
        count = 2000
        draws, side, size = torch.Generator().manual_seed(0), images.side, attack.size.side(images.side)
        spread = isinstance(attack, UniversalAttack)
        place = (
            attack.place(count, (side, side), draws)  # type: ignore[attr-defined]  # of a UniversalAttack
            if spread
            else sample_placement(count, (side, side), (size, size), draws)
        )
        textures, masks, shown = patch.textures[:1], patch.masks[:1], torch.zeros(count, 3, side, side)
    textures = textures.clone().requires_grad_()
    masks = masks.expand(len(shown), -1, -1, -1)
    logits = network(paste(shown, textures.expand(len(shown), -1, -1, -1), masks, place))
    (slope,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), textures)
    return float((slope * textures.detach()).sum() / slope.clamp(min=0).sum())


def every_place_is_reached(attack: Attack, seed: int) -> None:
    """While crafting, the patch comes to lie in the first and last row and column, and not on the diagonal alone."""
    if attack.kind == "per_image":
        raise DoesNotApplyError("the suite says where per-image patches lie")
    if attack.access == "none" or attack.covers == "image" or attack.needs_attention:
        raise DoesNotApplyError("no square is placed while it is crafted")
    linear = linear_network(0.02 * torch.randn(2, 3 * SIDE * SIDE, generator=derive_generator(seed, "slope")))
    shown: list[torch.Tensor] = []

    def network(inputs: torch.Tensor) -> torch.Tensor:
        shown.append(inputs.detach())
        logits: torch.Tensor = linear(inputs)
        return logits

    pixels = torch.full((16, 3, SIDE, SIDE), 77, dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(16, dtype=torch.int64), tuple(map(str, range(16))))
    missing: list[str] = []
    for attempt in range(12):
        craft(attack, network, images, seed=seed + attempt)
        missing = _unreached(torch.cat(shown))
        if not missing:
            return
    expected = "a patch that is learnt for every place, rows and columns drawn independently (sample_placement)"
    require(False, attack, expected, f"{len(torch.cat(shown))} places, and never {', '.join(missing)}")


def _unreached(shown: torch.Tensor) -> list[str]:
    changed = ((shown - 77 / 255).abs() > 1e-3).any(dim=1)
    changed = changed[changed.any(dim=(1, 2))]
    if not len(changed):
        return ["any"]
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    off_diagonal = (rows.int().argmax(dim=1) != columns.int().argmax(dim=1)).any()
    reached = {
        "the first row": rows[:, 0].any(),
        "the last row": rows[:, -1].any(),
        "the first column": columns[:, 0].any(),
        "the last column": columns[:, -1].any(),
        "off the diagonal": off_diagonal,
    }
    return [place for place, seen in reached.items() if not bool(seen)]


def rounding_to_8_bits_changes_little(attack: Attack, seed: int) -> str:
    """The patch works as a picture file stores it: rounded to k/255, it fools about as many images."""
    network, images = ground_for(attack, seed)
    patch = crafted(attack, seed)
    exact = goal_losses(attack, network, images, patch)
    rounded = goal_losses(attack, network, images, replace(patch, textures=round_to_8_bit(patch.textures)))
    spread = float((exact.max() - exact.min()).clamp(min=0.05))
    worst = float((rounded - exact).mean()) / spread
    expected = "a patch that keeps its effect when its pixels are rounded to k/255; round before choosing the best"
    require(worst < 0.1, attack, expected, f"a mean goal loss that rises by {worst:.0%} of its spread over the images")
    return f"mean goal loss {float(exact.mean()):.3g}, rounded {float(rounded.mean()):.3g}"


def _changed(attack: Attack, **fields: Any) -> Attack:  # noqa: ANN401 (values of fields)
    """The same attack with those of the fields that it has."""
    known = {name: value for name, value in fields.items() if name in type(attack).model_fields}
    return type(attack).model_validate({**attack.model_dump(), **known})


CHECKS: tuple[Callable[[Attack, int], str | None], ...] = (
    the_reported_loss_falls,
    the_patch_beats_noise,
    the_optimum_is_reached,
    every_place_is_reached,
    rounding_to_8_bits_changes_little,
)
