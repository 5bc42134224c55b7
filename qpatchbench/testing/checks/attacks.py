"""Promises of every attack, one function each.

Crafting is repeated, so give the attack few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError, QPatchBenchError
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.testing.checks import attack_effects
from qpatchbench.testing.fixtures.attack_tasks import craft, crafted, goals_of, ground_for, task_for
from qpatchbench.testing.require import DoesNotApplyError, fail, no_global_draws, require
from qpatchbench.types import ImageSet, Patch

GROUNDS_TRIED = 5


def the_patch_is_well_formed(attack: Attack, seed: int) -> None:
    """Shapes, type, finite values in [0, 1], a binary mask of exactly the budget, goals in the order asked for."""
    _, images = ground_for(attack, seed)
    patch, goals = crafted(attack, seed), goals_of(attack)
    count = len(goals) * (len(images) if attack.kind == "per_image" else 1)
    textures, masks, side = patch.textures, patch.masks, attack.size.side(images.side)
    # A deformable patch needs a larger box for the same area, and says itself where that box lies.
    box = textures.shape[-2:] if patch.placement is not None else (side, side)
    shape = (count, 3, *box)
    each = "goal and image, goal after goal" if count > len(goals) else "goal"
    require(tuple(textures.shape) == shape, attack, f"textures of shape {shape}: one per {each}", tuple(textures.shape))
    require(tuple(masks.shape) == (count, 1, *shape[2:]), attack, "one mask per texture", tuple(masks.shape))
    require(textures.dtype == masks.dtype == torch.float32, attack, "float32", f"{textures.dtype}, {masks.dtype}")
    require(not textures.requires_grad, attack, "textures without a graph", "requires_grad; detach() them")
    require(bool(torch.isfinite(textures).all()), attack, "finite textures", "NaN or infinity")
    low, high = float(textures.min()), float(textures.max())
    require(low >= 0 and high <= 1, attack, "pixels in [0, 1]; clamp after every step", f"[{low:.4g}, {high:.4g}]")
    binary = bool(((masks == 0) | (masks == 1)).all())
    require(binary, attack, "a mask of zeros and ones; cut it at one half", "values in between")
    areas = masks.sum(dim=(1, 2, 3))
    within = bool((areas <= side**2).all()) and bool((areas > 0).all())
    exact = within and (patch.placement is not None or bool((areas == side**2).all()))
    require(exact, attack, f"an area of size^2 = {side**2} pixels", f"{float(areas.min())}..{float(areas.max())}")
    if patch.placement is not None:
        _require_places(attack, patch, images)
    if attack.access == "scores":
        require(patch.queries is not None, attack, "the queries spent on every image", "queries=None")
    require(patch.goals == goals, attack, f"goals in the order asked for, {goals}", patch.goals)
    require(all(map(math.isfinite, patch.history)), attack, "a finite loss history", "NaN or infinity")


def _require_places(attack: Attack, patch: Patch, images: ImageSet) -> None:
    assert patch.placement is not None, "asked for by the caller"
    count = len(patch.textures)
    require(len(patch.placement) == count, attack, "a place for every texture", len(patch.placement))
    last = images.side - torch.tensor(patch.textures.shape[-2:])
    places = torch.stack((patch.placement.rows, patch.placement.columns), dim=1)
    inside = bool((places >= 0).all()) and bool((places <= last).all())
    require(inside, attack, f"places inside the image, rows and columns in 0..{last.tolist()}", places.tolist())


def inputs_are_left_alone(attack: Attack, seed: int) -> None:
    """Images, weights, buffers, gradients, modes and `requires_grad` are after crafting what they were before."""
    network, images = ground_for(attack, seed)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    craft(attack, network, images)
    untouched = torch.equal(pixels, images.pixels) and torch.equal(labels, images.labels)
    require(untouched, attack, "the images as they were; copy before writing", "changed pixels or labels")
    for name, tensor in network.state_dict().items():
        same = torch.equal(state[name].nan_to_num(), tensor.nan_to_num())
        require(same, attack, f"{name} as it was; observers and BatchNorm stay frozen", "another value")
    for name, module in network.named_modules():
        require(module.training == modes[name], attack, f"{name or 'the network'} in its mode", "another mode")
    for name, parameter in network.named_parameters():
        require(parameter.requires_grad == wants[name], attack, f"requires_grad of {name} as it was", "a switch")
        expected = f"no gradient left in {name}; use torch.autograd.grad"
        require(parameter.grad is None, attack, expected, "an accumulated gradient")


def the_seed_decides(attack: Attack, seed: int) -> None:
    """The same generator state gives the same bits."""
    first, second = crafted(attack, seed), craft(attack, *ground_for(attack, seed))
    same = torch.equal(first.textures, second.textures) and first.history == second.history
    require(same, attack, "the same patch from the same seed; draw from `task.generator` only", "another patch")


def another_seed_gives_another_patch(attack: Attack, seed: int) -> None:
    """Another generator state gives another patch."""
    for other in range(seed, seed + GROUNDS_TRIED):  # where every pixel ends at its bound, two patches may be equal
        network, images = ground_for(attack, other)
        first, second = craft(attack, network, images, seed=1), craft(attack, network, images, seed=2)
        if not torch.equal(first.textures, second.textures):
            return
    fail(attack, "another patch from another seed; draw from `task.generator`", "the same patch")


def no_global_generator_moves(attack: Attack, seed: int) -> None:
    """The global generators of torch, numpy and Python stay where they are."""
    network, images = ground_for(attack, seed)
    with no_global_draws(attack, "draw from `task.generator`"):
        craft(attack, network, images)


def each_image_is_attacked_alone(attack: Attack, seed: int) -> None:
    """A per-image patch does not depend on which other images are attacked beside its own."""
    if attack.kind == "universal":
        raise DoesNotApplyError("one universal patch serves all images")
    network, images = ground_for(attack, seed)
    task, half = task_for(attack, network, images), len(images) // 2
    assert task.placement is not None, "a per-image task has places"
    fewer = replace(task_for(attack, network, images), attacked=images[:half], placement=task.placement[slice(0, half)])
    every, first = attack.craft(task), attack.craft(fewer)
    for index, goal in enumerate(task.goals):
        own, alone = every.for_goal(index).textures[:half], first.for_goal(index).textures
        # Networks round differently in batches of another size, which a sign step may magnify on single images.
        same = int(((own - alone).abs().amax(dim=(1, 2, 3)) < 1e-3).sum())
        expected = (
            f"the same patches for {half} images whichever others are attacked beside them ({goal}); use ImageDraws"
        )
        require(same >= 0.8 * half, attack, expected, f"{same} equal")


def queries_are_counted(attack: Attack, seed: int) -> None:
    """A score-based attack takes no gradient, and its queries are the images that the network was shown."""
    if attack.access != "scores":
        raise DoesNotApplyError(f"its access is {attack.access!r}, not 'scores'")
    task = task_for(attack, *ground_for(attack, seed))
    patch, oracle = attack.craft(task), task.network
    assert isinstance(oracle, Scores), "made so by task_for"
    spent = int(patch.queries.sum()) if patch.queries is not None else 0
    require(0 < spent <= oracle.queries, attack, f"at most the {oracle.queries} queries counted", spent)


def progress_is_told(attack: Attack, seed: int) -> None:
    """Fractions never fall and end at 1; figures are finite numbers."""
    _require_access(attack)
    network, images = ground_for(attack, seed)
    told: list[float] = []

    def progress(fraction: float, figures: object) -> None:
        told.append(fraction)
        values = dict(figures).values()  # type: ignore[call-overload]  # checked here, whatever it is
        require(all(map(math.isfinite, values)), attack, "finite figures", figures)

    craft(attack, network, images, progress=progress)
    require(bool(told), attack, "at least one call of task.progress(fraction, figures)", "none")
    require(told == sorted(told), attack, "fractions that never fall", told)
    require(abs(told[-1] - 1) < 1e-6, attack, "a last fraction of 1", told[-1])


def a_broken_network_is_refused(attack: Attack, seed: int) -> None:
    """Logits that are not finite raise `AttackError`: a patch without a gradient would pass for robustness."""
    _require_access(attack)
    network, images = ground_for(attack, seed)

    def broken(inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(inputs)
        return logits * float("nan")

    try:
        craft(attack, broken, images)
    except AttackError:
        return
    except QPatchBenchError as error:
        fail(attack, "an AttackError where logits are NaN", type(error).__name__)
    fail(attack, "an AttackError where logits are NaN", "a patch")


def _require_access(attack: Attack) -> None:
    if attack.access == "none":
        raise DoesNotApplyError("its access is 'none': it never looks at the network")


CHECKS: tuple[Callable[[Attack, int], str | None], ...] = (
    the_patch_is_well_formed,
    inputs_are_left_alone,
    the_seed_decides,
    another_seed_gives_another_patch,
    no_global_generator_moves,
    each_image_is_attacked_alone,
    queries_are_counted,
    progress_is_told,
    a_broken_network_is_refused,
    *attack_effects.CHECKS,
)
