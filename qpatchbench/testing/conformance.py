"""What every attack must keep, one function per invariant, for authors of attacks to run on their own.

Each takes an attack, a frozen network and at least 16 images, and raises `PluginError` with what was expected, what
was found and what to do. Crafting is repeated, so give the attack few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError, PluginError, QPatchBenchError
from qpatchbench.ops.placing import sample_placement
from qpatchbench.types import Goal, ImageSet, Network, Patch, Progress, Untargeted, silent

SEED = 20_240


def craft(
    attack: Attack, network: Network, images: ImageSet, *, seed: int = SEED, progress: Progress = silent
) -> Patch:
    """The attack's patch for the goals it names, as the suite would ask for it."""
    height, width = images.pixels.shape[-2:]
    size = (attack.size, attack.size)
    known = sample_placement(len(images), (height, width), size, torch.Generator().manual_seed(SEED))
    placement = known if attack.kind == "per_image" else None
    generator = torch.Generator().manual_seed(seed)
    return attack.craft(network, images, goals_of(attack), placement=placement, generator=generator, progress=progress)


def goals_of(attack: Attack) -> tuple[Goal, ...]:
    """Goals that the attack names, with two classes where it names all."""
    return (Untargeted(),) if attack.targets == "untargeted" else attack.goals(2)


def check_attack_patch(attack: Attack, network: Network, images: ImageSet) -> None:
    """Shapes, type, finite values in [0, 1], a binary mask of exactly the budget, goals in the order asked for."""
    patch, goals = craft(attack, network, images), goals_of(attack)
    count = len(goals) * (len(images) if attack.kind == "per_image" else 1)
    textures, masks = patch.textures, patch.masks
    shape = (count, 3, attack.size, attack.size)
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
    exact = bool((areas == attack.size**2).all())
    _require(
        exact, attack, f"an area of size^2 = {attack.size**2} pixels", f"{float(areas.min())}..{float(areas.max())}"
    )
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
    check_attack_reports_progress,
    check_attack_refuses_a_broken_network,
)


def _require(holds: bool, attack: Attack, expected: str, found: str) -> None:
    if not holds:
        raise PluginError(f"attack {attack.name!r}: expected {expected}; found {found}")
