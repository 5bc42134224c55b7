"""The steps of a suite on networks and images at hand: quantize, craft, measure, transfer.

A network is anything that maps images (B, 3, H, W) float32 in [0, 1] to logits (B, K); what it does to its pixels
first, such as normalising them, is inside (`ImageClassifier`). Images are (pixels, labels): (N, 3, H, W), uint8 or
float32 in [0, 1], and (N,) class ids. Nothing that is passed in is changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qpatchbench.api.arguments import (
    AnyPatch,
    Goals,
    Images,
    classes_of,
    expect_classes,
    float_pixels,
    frozen_copy,
    image_set,
    patch_from_elsewhere,
    several_goals,
)
from qpatchbench.api.measurement import Measurement
from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.errors import AttackError, QPatchBenchError
from qpatchbench.evaluation.measure import (
    clean_predictions,
    count_outcomes,
    eligible_images,
    fooled_images,
    patched_predictions,
)
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.inspection.reach import require_reachable
from qpatchbench.registry import ATTACKS, QUANTIZERS
from qpatchbench.suite.guards.returned_patch import require_patch
from qpatchbench.types import (
    FLOAT,
    Bits,
    CraftTask,
    ImageSet,
    Network,
    Patch,
    Placement,
    Progress,
    silent,
)

if TYPE_CHECKING:
    import pandas as pd

PLACES = "evaluation placement"  # as the draws of a suite are called, so that places are the same
SHOWN = 8  # images on which a network is tried before it is quantized


def quantize(
    module: torch.nn.Module,
    quantizer: str | Quantizer = "ptq",
    bits: int | str | Bits = 8,
    calibration: torch.Tensor | np.ndarray[Any, Any] | ImageSet | None = None,
    **fields: Any,  # noqa: ANN401 (fields of any quantizer)
) -> torch.nn.Module:
    """A frozen network at `bits`; the module stays as it is.

    Args:
        module: a float network, in any mode.
        quantizer: its name, with `fields`, such as calibration="percentile"; or one that is made already.
        bits: 2..16, "w4a8", or 32 for the float network itself.
        calibration: (N, 3, H, W) images to calibrate on, held out from those that are measured.
        **fields: of the quantizer; `qpatchbench describe quantizer ptq` shows them.

    Raises:
        QPatchBenchError: most of the network is out of reach of quantizers, with the layers by name; or the quantizer
            needs training, which a suite does.
    """
    wanted = Bits.parse(bits)
    chosen = quantizer if isinstance(quantizer, Quantizer) else _quantizer(quantizer, wanted, fields)
    if chosen.wants_trained:
        raise QPatchBenchError(f"{chosen.mode} deploys trained quantizers: expected ptq or dynamic here, or a suite")
    if calibration is None:
        if chosen.calibrates and not wanted.is_float:
            raise QPatchBenchError(
                f"{chosen.mode} is calibrated on images: expected calibration=(N, 3, H, W), found none"
            )
        pixels = torch.zeros(0, 3, 1, 1)
    else:
        pixels = float_pixels(calibration.pixels if isinstance(calibration, ImageSet) else torch.as_tensor(calibration))
    if not wanted.is_float and len(pixels):
        require_reachable(copy.deepcopy(module).eval(), pixels[:1], type(module).__name__)
    checkpoint = Checkpoint(lambda: copy.deepcopy(module), dict(module.state_dict()), None, (FLOAT,))
    with torch.random.fork_rng(devices=[]):
        deployed: torch.nn.Module = chosen.deploy(checkpoint, wanted, pixels)
    return deployed


def craft(
    network: Network | Sequence[Network],
    images: Images,
    attack: str | Attack = "lavan",
    *,
    goals: Goals | None = None,
    seed: int = 0,
    progress: Progress = silent,
    **fields: Any,  # noqa: ANN401 (fields of any attack)
) -> Patch:
    """Patches of an attack on a network, one for each goal; of a per-image attack one for each image too.

    Args:
        network: the source; several for an attack that takes several, such as ensemble.
        images: to learn from, other than those measured; those attacked, of a per-image attack.
        attack: its name, with `fields`, such as size=50 and steps=100; or one that is made already.
        goals: a class id, several, or "untargeted"; by default what the attack says, or every class.
        seed: of all its draws.
        progress: told the fraction done and current figures.
        **fields: of the attack; `qpatchbench describe attack lavan` shows them.

    Raises:
        AttackError: the attack gave up, or returned no patch.
        QPatchBenchError: the attack, a field or the network does not fit.
    """
    named = {} if goals is None else {"targets": goals if goals == "untargeted" else several_goals(goals)}
    chosen: Attack = (
        attack.model_copy(update=named)
        if isinstance(attack, Attack)
        else create(ATTACKS, {"name": attack, **fields, **named})
    )
    networks = [frozen_copy(each) for each in (network if isinstance(network, Sequence) else (network,))]
    own = image_set(images)
    wanted = chosen.goals(classes_of(networks[0], own))
    if chosen.wants_siblings:
        raise AttackError(f"{chosen.title} also uses the network at its other bits: expected a suite for it")
    if isinstance(networks[0], torch.nn.Module):
        chosen.require_network(networks[0], to_float(own.pixels[:1]))
    alone = chosen.kind == "per_image"
    side = chosen.size.side(own.side)
    seen = tuple(Scores(each) if chosen.access == "scores" else each for each in networks)
    patch = chosen.craft(
        CraftTask(
            networks=seen,
            goals=wanted,
            crafting=own if chosen.learns else own[:0],
            generator=derive_generator(seed, "craft", chosen.name),
            attacked=own if alone else None,
            placement=_places(own, side, 0) if alone else None,
            progress=progress,
        )
    )
    require_patch(chosen.title, patch, wanted, len(wanted) * (len(own) if alone else 1), side, own.side)
    return replace(patch, textures=patch.textures.detach().cpu(), masks=patch.masks.cpu())


def measure(
    network: Network,
    patch: AnyPatch,
    images: Images,
    *,
    goals: Goals | None = None,
    placement_seed: int = 0,
    batch_size: int = 100,
) -> Measurement:
    """What a patch does to a network, at random places, beside uniform noise of the same square.

    Args:
        network: the target.
        patch: what `craft` returned; the file of a patch (.png, .npy, .npz, .safetensors, or ImageNet-Patch's .gz); or
            an array of its pixels, or the pair of pixels and mask that the Adversarial Robustness Toolbox gives.
        images: to measure on.
        goals: of a patch from elsewhere: its class id, one for each of several, or "untargeted"; by default what its
            file names, else untargeted.
        placement_seed: of the places, which are those of a suite of this seed.
        batch_size: images per forward pass.

    Raises:
        PatchFileError: the file is no patch.
        QPatchBenchError: the patch is larger than the images, or goals and patches do not agree.
    """
    own, target = image_set(images), frozen_copy(network)
    found = patch if isinstance(patch, Patch) else patch_from_elsewhere(patch, goals)
    if max(found.height, found.width) > own.side:
        raise QPatchBenchError(
            f"expected a patch that fits into {own.side}x{own.side} pixels, found {found.height}x{found.width}"
        )
    expect_classes(found, classes_of(target, own))
    places = found.placement or _places(own, found.height, placement_seed)
    noise = torch.rand(found.textures.shape, generator=derive_generator(placement_seed, "craft", "random"))
    control = replace(found, textures=noise, masks=torch.ones_like(found.masks))
    labels, clean = own.labels.cpu().numpy(), clean_predictions(target, own, batch_size).numpy()
    each = [_predicted(target, own, which, places, batch_size) for which in (found, control)]
    attacked = None if found.attacked is None else found.attacked.cpu().numpy().reshape(each[0].shape)
    counts = [count_outcomes(labels, clean, predictions, found.goals, attacked) for predictions in each]
    fooled = fooled_images(labels, clean, each[0], found.goals, attacked)
    eligible = eligible_images(labels, clean, found.goals) & (True if attacked is None else attacked)
    return Measurement(labels, clean, each[0], fooled, eligible, counts[0], counts[1])


def transfer(
    sources: Mapping[str, Network],
    targets: Mapping[str, Network],
    crafting: Images,
    images: Images,
    attack: str | Attack = "lavan",
    *,
    goals: Goals | None = None,
    seed: int = 0,
    **fields: Any,  # noqa: ANN401 (fields of any attack)
) -> pd.DataFrame:
    """Patches of every source measured on every target: one row for each pair, rates in percent.

    Args:
        sources: name -> network to craft on.
        targets: name -> network to measure on.
        crafting: images that patches are crafted on.
        images: images that they are measured on, others than those.
        attack: as `craft` takes it, with `fields`.
        goals: as `craft` takes them.
        seed: of all draws.
        **fields: of the attack.
    """
    import pandas as pd

    rows = []
    for source, network in sources.items():
        patch = craft(network, crafting, attack, goals=goals, seed=seed, **fields)
        for target, other in targets.items():
            rows.append({"source": source, "target": target, **measure(other, patch, images).summary})
    return pd.DataFrame(rows)


def _quantizer(name: str, bits: Bits, fields: Mapping[str, Any]) -> Quantizer:
    made: Quantizer = (
        create(QUANTIZERS, {"name": "fp", "bits": (bits,)})
        if bits.is_float
        else create(QUANTIZERS, {"name": name, "bits": (bits,), **fields})
    )
    return made


def _predicted(
    network: Network, images: ImageSet, patch: Patch, places: Placement, batch_size: int
) -> np.ndarray[Any, Any]:
    each = len(patch.textures) // len(patch.goals)
    parts = []
    for index in range(len(patch.goals)):
        own = patch.for_goal(index)
        where = places[index * each : (index + 1) * each] if patch.placement is not None else places
        parts.append(patched_predictions(network, images, own, where, batch_size))
    found: np.ndarray[Any, Any] = torch.cat(parts).numpy()
    return found


def _places(images: ImageSet, side: int, seed: int) -> Placement:
    size = (images.side, images.side)
    return sample_placement(len(images), size, (side, side), derive_generator(seed, PLACES))
