"""What every attack must keep, one function per invariant, for authors of attacks to run on their own.

Each takes an attack, a frozen network and at least 16 images, and raises `PluginError` with what was expected, what
was found and what to do. Crafting is repeated, so give the attack few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError, PluginError, QPatchBenchError
from qpatchbench.ops.placing import sample_placement
from qpatchbench.ops.scores import Scores
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Progress, Untargeted, silent

SEED = 20_240


def craft(
    attack: Attack, network: Network, images: ImageSet, *, seed: int = SEED, progress: Progress = silent
) -> Patch:
    """The attack's patch for the goals it names, as the suite would ask for it; images are learnt from and attacked."""
    return attack.craft(task_for(attack, network, images, seed=seed, progress=progress))


def task_for(
    attack: Attack, network: Network, images: ImageSet, *, seed: int = SEED, progress: Progress = silent
) -> CraftTask:
    """What the suite would ask of the attack."""
    side = attack.size.side(images.side)
    known = sample_placement(len(images), (images.side, images.side), (side, side), torch.Generator().manual_seed(SEED))
    alone = attack.kind == "per_image"
    seen: Network = Scores(network) if attack.access == "scores" else network
    return CraftTask(
        networks=(seen, seen) if attack.sources == "several" else (seen,),
        goals=goals_of(attack),
        crafting=images if attack.learns else images[:0],
        generator=torch.Generator().manual_seed(seed),
        siblings=(seen,) if attack.wants_siblings else (),
        attacked=images if alone else None,
        placement=known if alone else None,
        progress=progress,
    )


def goals_of(attack: Attack) -> tuple[Goal, ...]:
    """Goals that the attack names, with two classes where it names all."""
    return (Untargeted(),) if attack.targets == "untargeted" else attack.goals(2)


def check_attack_patch(attack: Attack, network: Network, images: ImageSet) -> None:
    """Shapes, type, finite values in [0, 1], a binary mask of exactly the budget, goals in the order asked for."""
    patch, goals = craft(attack, network, images), goals_of(attack)
    count = len(goals) * (len(images) if attack.kind == "per_image" else 1)
    textures, masks, side = patch.textures, patch.masks, attack.size.side(images.side)
    # A deformable patch needs a larger box for the same area, and says itself where that box lies.
    box = textures.shape[-2:] if patch.placement is not None else (side, side)
    shape = (count, 3, *box)
    _require(
        tuple(textures.shape) == shape,
        attack,
        f"textures of shape {shape}: one per {'goal and image, goal after goal' if count > len(goals) else 'goal'}",
        f"{tuple(textures.shape)}",
    )
    _require(tuple(masks.shape) == (count, 1, *shape[2:]), attack, "one mask per texture", f"{tuple(masks.shape)}")
    _require(textures.dtype == masks.dtype == torch.float32, attack, "float32", f"{textures.dtype}, {masks.dtype}")
    _require(not textures.requires_grad, attack, "textures without a graph", "requires_grad; detach() them")
    _require(bool(torch.isfinite(textures).all()), attack, "finite textures", "NaN or infinity")
    low, high = float(textures.min()), float(textures.max())
    _require(low >= 0 and high <= 1, attack, "pixels in [0, 1]; clamp after every step", f"[{low:.4g}, {high:.4g}]")
    binary = bool(((masks == 0) | (masks == 1)).all())
    _require(binary, attack, "a mask of zeros and ones; cut it at one half", "values in between")
    areas = masks.sum(dim=(1, 2, 3))
    within = bool((areas <= side**2).all()) and bool((areas > 0).all())
    exact = within and (patch.placement is not None or bool((areas == side**2).all()))
    _require(exact, attack, f"an area of size^2 = {side**2} pixels", f"{float(areas.min())}..{float(areas.max())}")
    if patch.placement is not None:
        _require(len(patch.placement) == count, attack, "a place for every texture", f"{len(patch.placement)}")
        last = images.side - torch.tensor(box)
        places = torch.stack((patch.placement.rows, patch.placement.columns), dim=1)
        inside = bool((places >= 0).all()) and bool((places <= last).all())
        expected = f"places inside the image, rows and columns in 0..{last.tolist()}"
        _require(inside, attack, expected, f"{places.tolist()}")
    if attack.access == "scores":
        _require(patch.queries is not None, attack, "the queries spent on every image", "queries=None")
    _require(patch.goals == goals, attack, f"goals in the order asked for, {goals}", f"{patch.goals}")
    _require(all(map(math.isfinite, patch.history)), attack, "a finite loss history", "NaN or infinity")


def check_attack_leaves_its_inputs_alone(attack: Attack, network: torch.nn.Module, images: ImageSet) -> None:
    """Images, weights, buffers, gradients, modes and `requires_grad` are after crafting what they were before."""
    pixels, labels = images.pixels.clone(), images.labels.clone()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    had = {name: parameter.grad is not None for name, parameter in network.named_parameters()}
    craft(attack, network, images)
    untouched = torch.equal(pixels, images.pixels) and torch.equal(labels, images.labels)
    _require(untouched, attack, "the images as they were; copy before writing", "changed pixels or labels")
    for name, tensor in network.state_dict().items():
        same = torch.equal(state[name].nan_to_num(), tensor.nan_to_num())
        _require(same, attack, f"{name} as it was; observers and BatchNorm stay frozen", "another value")
    for name, module in network.named_modules():
        _require(module.training == modes[name], attack, f"{name or 'the network'} in its mode", "another mode")
    for name, parameter in network.named_parameters():
        _require(parameter.requires_grad == wants[name], attack, f"requires_grad of {name} as it was", "a switch")
        clean = had[name] or parameter.grad is None
        _require(clean, attack, f"no gradient left in {name}; use torch.autograd.grad", "an accumulated gradient")


def check_attack_is_reproducible(attack: Attack, network: Network, images: ImageSet) -> None:
    """The same generator state gives the same bits."""
    first, second = craft(attack, network, images), craft(attack, network, images)
    same = torch.equal(first.textures, second.textures) and first.history == second.history
    _require(same, attack, "the same patch from the same seed; draw from `generator` only", "another patch")


def check_attack_depends_on_its_seed(attack: Attack, network: Network, images: ImageSet) -> None:
    """Another generator state gives another patch."""
    first, second = craft(attack, network, images, seed=1), craft(attack, network, images, seed=2)
    same = torch.equal(first.textures, second.textures)
    _require(not same, attack, "another patch from another seed; draw from `generator`", "the same patch")


def check_attack_uses_no_global_randomness(attack: Attack, network: Network, images: ImageSet) -> None:
    """The global generators of torch, numpy and Python stay where they are."""
    import random

    import numpy as np

    def states() -> tuple[object, ...]:
        legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (it is this one that must not move)
        return torch.get_rng_state().tolist(), repr(legacy), random.getstate()

    before = states()
    craft(attack, network, images)
    for name, old, new in zip(("torch's", "numpy's", "Python's"), before, states(), strict=True):
        _require(old == new, attack, f"{name} global generator untouched; draw from `generator`", "draws from it")


def check_attack_treats_each_image_alone(attack: Attack, network: Network, images: ImageSet) -> None:
    """A per-image patch does not depend on which other images are attacked beside its own."""
    if attack.kind == "universal":
        return
    task = task_for(attack, network, images)
    half = len(images) // 2
    assert task.placement is not None, "a per-image task has places"
    fewer = replace(task_for(attack, network, images), attacked=images[:half], placement=task.placement[slice(0, half)])
    every, first = attack.craft(task), attack.craft(fewer)
    for index, goal in enumerate(task.goals):
        own, alone = every.for_goal(index).textures[:half], first.for_goal(index).textures
        # Networks round differently in batches of another size, which a sign step may magnify on single images.
        same = int(((own - alone).abs().amax(dim=(1, 2, 3)) < 1e-3).sum())
        _require(
            same >= 0.8 * half,
            attack,
            f"the same patches for {half} images whichever others are attacked beside them ({goal}); use ImageDraws",
            f"{same} equal",
        )


def check_attack_asks_scores_only(attack: Attack, network: Network, images: ImageSet) -> None:
    """A score-based attack takes no gradient, and its queries are the images that the network was shown."""
    if attack.access != "scores":
        return
    task = task_for(attack, network, images)
    patch, oracle = attack.craft(task), task.network
    assert isinstance(oracle, Scores), "made so by task_for"
    spent = int(patch.queries.sum()) if patch.queries is not None else 0
    _require(0 < spent <= oracle.queries, attack, f"at most the {oracle.queries} queries counted", f"{spent}")


def check_attack_reports_progress(attack: Attack, network: Network, images: ImageSet) -> None:
    """Fractions never fall and end at 1; figures are finite numbers."""
    told: list[float] = []

    def progress(fraction: float, figures: object) -> None:
        told.append(fraction)
        values = dict(figures).values()  # type: ignore[call-overload]  # checked here, whatever it is
        _require(all(map(math.isfinite, values)), attack, "finite figures", f"{figures}")

    craft(attack, network, images, progress=progress)
    _require(bool(told), attack, "at least one call of progress(fraction, figures)", "none")
    _require(told == sorted(told), attack, "fractions that never fall", f"{told}")
    _require(abs(told[-1] - 1) < 1e-6, attack, "a last fraction of 1", f"{told[-1]}")


def check_attack_refuses_a_broken_network(attack: Attack, network: Network, images: ImageSet) -> None:
    """Logits that are not finite raise `AttackError`: a patch without a gradient would pass for robustness."""

    def broken(inputs: torch.Tensor) -> torch.Tensor:
        return network(inputs) * float("nan")

    try:
        craft(attack, broken, images)
    except AttackError:
        return
    except QPatchBenchError as error:
        _require(False, attack, "an AttackError where logits are NaN", type(error).__name__)
    _require(False, attack, "an AttackError where logits are NaN", "a patch")


ATTACK_CHECKS: tuple[Callable[[Attack, torch.nn.Module, ImageSet], None], ...] = (
    check_attack_patch,
    check_attack_leaves_its_inputs_alone,
    check_attack_is_reproducible,
    check_attack_depends_on_its_seed,
    check_attack_uses_no_global_randomness,
    check_attack_treats_each_image_alone,
    check_attack_asks_scores_only,
    check_attack_reports_progress,
    check_attack_refuses_a_broken_network,
)


def _require(holds: bool, attack: Attack, expected: str, found: str) -> None:
    if not holds:
        raise PluginError(f"attack {attack.name!r}: expected {expected}; found {found}")
