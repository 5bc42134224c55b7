"""What the suite would ask of an attack, on networks and images of one's own."""

from __future__ import annotations

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.ops.losses import cross_entropy, goal_classes
from qpatchbench.ops.pasting import paste, to_float
from qpatchbench.ops.placing import sample_placement
from qpatchbench.ops.scores import Scores
from qpatchbench.testing.ground import Ground, quantized_ground, token_ground
from qpatchbench.testing.remembering import once
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Placement, Progress, Untargeted, silent

SEED = 20_240


def ground_for(attack: Attack, seed: int, count: int = 16) -> Ground:
    """A network that the attack works on, and images for it."""
    return token_ground(seed, count) if attack.needs_attention else quantized_ground(seed, count)


def craft(
    attack: Attack, network: Network, images: ImageSet, *, seed: int = SEED, progress: Progress = silent
) -> Patch:
    """The attack's patch for the goals it names, as the suite would ask for it; images are learnt from and attacked."""
    return attack.craft(task_for(attack, network, images, seed=seed, progress=progress))


def crafted(attack: Attack, seed: int) -> Patch:
    """The patch on the ground of that seed, crafted once in a row of checks."""
    return once("patch", attack, lambda: craft(attack, *ground_for(attack, seed)), seed)


def task_for(
    attack: Attack, network: Network, images: ImageSet, *, seed: int = SEED, progress: Progress = silent
) -> CraftTask:
    """What the suite would ask of the attack."""
    alone = attack.kind == "per_image"
    seen: Network = Scores(network) if attack.access == "scores" else network
    return CraftTask(
        networks=(seen, seen) if attack.sources == "several" else (seen,),
        goals=goals_of(attack),
        crafting=images if attack.learns else images[:0],
        generator=torch.Generator().manual_seed(seed),
        siblings=(seen,) if attack.wants_siblings else (),
        attacked=images if alone else None,
        placement=places_for(attack, images) if alone else None,
        progress=progress,
    )


def places_for(attack: Attack, images: ImageSet) -> Placement:
    """Where the suite lays the attack's patches on the images."""
    side = attack.size.side(images.side)
    draws = torch.Generator().manual_seed(SEED)
    return sample_placement(len(images), (images.side, images.side), (side, side), draws)


def goals_of(attack: Attack) -> tuple[Goal, ...]:
    """Goals that the attack names, with two classes where it names all."""
    return (Untargeted(),) if attack.targets == "untargeted" else attack.goals(2)


@torch.no_grad()
def goal_losses(attack: Attack, network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    """What the patch is to minimise, on every image and for every goal: -log P(target), or log P(label).

    Returns:
        (goals, images); a patch that does not say where it lies is laid where the suite lays it.
    """
    rows = []
    for index, goal in enumerate(patch.goals):
        own = patch.for_goal(index)
        place = own.placement if own.placement is not None else places_for(attack, images)
        masks = own.masks.expand(len(images), -1, -1, -1)
        logits = network(paste(to_float(images.pixels), own.textures, masks, place))
        rows.append(cross_entropy(logits, images.labels, goal_classes((goal,)).expand(len(images))))
    return torch.stack(rows)
