"""Validity checks on networks, patches and data. `evaluation.checks.explanations` explains each.

V2, which compares a patch with its control, needs two cells and lives in `evaluation.checks.paired`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qpatchbench.ops.crafting.losses import logit_difference
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.runs.records import Check
from qpatchbench.statistics.intervals import wilson
from qpatchbench.types import ImageSet, Network, Patch, Placement, Stage

MOST_FLIPS = 0.005  # share of predictions that rounding a patch to 8 bits may change
MOST_ZERO_GRADIENTS = 0.05  # share of images whose gradient at the patch is exactly zero
MOST_FOUND = 0.05  # share of images that a search without gradients may break where gradients did not
LEAST_SKILL = 0.05  # accuracy above chance, as a share of what is possible above chance


def patch_is_valid(patch: Patch, size: int, flipped: int, predictions: int) -> Check:
    """V1: inside [0, 1], finite, binary mask within the budget, and stable under 8-bit rounding."""
    textures, masks = patch.textures, patch.masks
    area = float(masks.sum(dim=(1, 2, 3)).max())
    problems = []
    if not bool(torch.isfinite(textures).all()):
        problems.append("values are not finite")
    elif float(textures.min()) < 0 or float(textures.max()) > 1:
        problems.append(f"values in [{float(textures.min()):.3f}, {float(textures.max()):.3f}], expected [0, 1]")
    if not bool(((masks == 0) | (masks == 1)).all()):
        problems.append("the mask is not binary")
    if area > size * size:
        problems.append(f"area {area:.0f} pixels, budget {size * size}")
    figures = {"area": area, "budget": float(size * size), "flipped": float(flipped), "of": float(predictions)}
    check = _verdict("V1", problems, figures)
    # The harness evaluates the rounded patch, so flips do not bias a number: they say that the patch depends on
    # differences that no image file holds, and that its crafting network is that sensitive.
    if check.verdict == "pass" and predictions and wilson(flipped, predictions).low > MOST_FLIPS:
        message = f"8-bit rounding of the patch changes {flipped} of {predictions} predictions of its crafting network"
        check = check.model_copy(update={"verdict": "warn", "message": message})
    return check


def storage_is_faithful(textures: torch.Tensor, stored: torch.Tensor) -> Check:
    """V1: every stored 8-bit value is the nearest one to what was crafted; cutting off instead would darken it."""
    largest = float((to_float(stored) - textures).abs().max()) if len(textures) else 0.0
    problems = [f"stored values are off by up to {255 * largest:.3g}/255, expected at most 0.5/255"]
    return _verdict("V1", problems if largest > 0.5 / 255 + 1e-6 else [], {"stored_off": largest})


def outside_is_untouched(images: torch.Tensor, patch: Patch, placement: Placement) -> Check:
    """V1: every pixel outside the patch's square is the image's own, bit for bit."""
    pasted = paste(images, patch.textures[:1], patch.masks[:1], placement)
    ones = torch.ones_like(patch.masks[:1])
    covered = paste(torch.zeros_like(images), ones.expand(-1, 3, -1, -1), ones, placement) > 0
    changed = int(((pasted != images) & ~covered).sum())
    problems = [f"{changed} values outside the patch changed"] if changed else []
    return _verdict("V1", problems, {"changed": float(changed)})


def rounding_flips(network: Network, images: ImageSet, patch: Patch, placement: Placement) -> tuple[int, int]:
    """How many predictions change when textures are rounded to 8 bits, and of how many; first goal's texture."""
    pixels = to_float(images.pixels)
    textures, masks = patch.textures[: len(images)], patch.masks[: len(images)]
    if len(textures) < len(images):
        textures, masks = textures[:1], masks[:1]
    with torch.no_grad():
        exact = network(paste(pixels, textures.to(pixels.device), masks.to(pixels.device), placement)).argmax(1)
        rounded = round_to_8_bit(textures).to(pixels.device)
        stored = network(paste(pixels, rounded, masks.to(pixels.device), placement)).argmax(1)
    return int((exact != stored).sum()), len(images)


def patch_gradients(network: Network, images: ImageSet, patch: Patch, placement: Placement) -> torch.Tensor:
    """Gradient of each image's margin with respect to its own copy of the first goal's patch; (N, 3, h, w)."""
    pixels = to_float(images.pixels)
    textures, masks = patch.textures[: len(images)], patch.masks[: len(images)]
    if len(textures) < len(images):
        textures, masks = textures[:1], masks[:1]
    own = textures.to(pixels.device).expand(len(images), -1, -1, -1).clone().requires_grad_()
    untargeted = torch.full_like(images.labels, -1)
    loss = logit_difference(network(paste(pixels, own, masks.to(pixels.device), placement)), images.labels, untargeted)
    return torch.autograd.grad(loss.sum(), own)[0]


def gradients_are_useful(gradients: torch.Tensor, reference: torch.Tensor | None) -> Check:
    """V3: gradients at the patch are finite and rarely zero; `reference` are those of the 32-bit path."""
    flat = gradients.flatten(1)
    finite = bool(torch.isfinite(flat).all())
    # Counted as an integer: a mean in float32 would put exactly 5 % above 5 %.
    blind = int((flat == 0).all(dim=1).sum())
    figures = {"zero_share": blind / max(1, len(flat))}
    problems = [] if finite else ["gradients at the patch are NaN or infinite"]
    if finite:
        figures["norm"] = float(flat.norm(dim=1).mean())
        if reference is not None:
            figures["cosine_to_float"] = float(
                torch.nn.functional.cosine_similarity(flat, reference.flatten(1), dim=1).mean()
            )
    if blind > MOST_ZERO_GRADIENTS * len(flat):
        problems.append(f"{100 * figures['zero_share']:.1f} % of the images give no gradient at the patch")
    return _verdict("V3", problems, figures)


def scores_find_nothing_more(stages: tuple[Stage, ...]) -> Check:
    """V13 within one compound attack: a search without gradients breaks few images that gradients could not.

    Few means few of all that were attacked: of a handful of survivors, one more is no sign of masking.
    """
    total = max((stage.attacked for stage in stages), default=0)
    if not any(stage.access == "gradient" for stage in stages):
        return Check(id="V13", verdict="not-run", message="no part of the attack follows a gradient")
    if not any(stage.access == "scores" and stage.attacked for stage in stages):
        return Check(id="V13", verdict="not-run", message="no image was left for a search without gradients")
    figures = {f"{stage.attack}_broken": float(stage.broken) for stage in stages} | {"attacked": float(total)}
    problems = [
        f"{stage.attack}, which sees no gradient, broke {stage.broken} of {total} images after gradients had broken "
        f"{total - stage.attacked}: gradients are masked"
        for stage in stages
        if stage.access == "scores" and wilson(stage.broken, total).low > MOST_FOUND
    ]
    return _verdict("V13", problems, figures)


def nothing_to_follow(network: str) -> tuple[Check, ...]:
    """V3, V11, V12 and V13 of a patch from the scores of a network that gives no gradient: not run, and why."""
    why = f"{network} answers from a file, which gives no gradient"
    return tuple(Check(id=name, verdict="not-run", message=why) for name in ("V3", "V11", "V12", "V13"))


def accuracy_is_above_chance(correct: int, images: int, classes: int) -> Check:
    """V6: clean accuracy is significantly above chance."""
    chance = 1 / classes
    needed = chance + LEAST_SKILL * (1 - chance)
    low = wilson(correct, images).low
    figures = {"correct": float(correct), "images": float(images), "accuracy_low": low, "needed": needed}
    problems = []
    # Without images the interval is NaN, which is not above anything.
    if not low > needed:
        accuracy = f"{100 * correct / images:.1f} %" if images else "of no images"
        problems.append(f"clean accuracy {accuracy} (chance is {100 * chance:.1f} %): ASR means nothing here")
    return _verdict("V6", problems, figures)


def network_is_sound(network: torch.nn.Module, images: torch.Tensor) -> tuple[Check, Check]:
    """V7: logits rather than probabilities, eval mode. V8: the same input gives the same output.

    A network that draws at random passes V8 if it has a stand-in `expected`, which attacks follow: the exact
    expectation over its draws.
    """
    with torch.no_grad():
        first, second = network(images), network(images)
    problems = []
    positive = bool((first >= 0).all()) and bool((first <= 1).all())
    if positive and bool(torch.allclose(first.sum(dim=1), torch.ones(len(first), device=first.device), atol=1e-4)):
        problems.append("outputs are probabilities, expected logits: softmax outputs starve gradient attacks")
    training = [name or "the network" for name, module in network.named_modules() if module.training]
    if training:
        problems.append(f"in training mode: {', '.join(training[:3])}")
    differs = float((first - second).abs().max())
    averaged = hasattr(network, "expected")
    random = (
        []
        if differs == 0 or averaged
        else [f"randomised: the same input twice differs by up to {differs:.3g}; EOT is 1"]
    )
    return _verdict("V7", problems, {}), _verdict("V8", random, {"difference": differs})


def state_is_unchanged(before: str, after: str) -> Check:
    """V7: the attack left every weight, buffer and observer as it was."""
    return _verdict("V7", [] if before == after else ["the attack changed the network's state"], {})


def state_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of every byte of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parts_are_disjoint(parts: Mapping[str, ImageSet]) -> Check:
    """V9: no image is in two of train, calibration, craft and evaluation, compared by content."""
    owner: dict[bytes, str] = {}
    shared: dict[str, int] = {}
    for name, images in parts.items():
        for pixels in images.pixels:
            digest = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()
            other = owner.setdefault(digest, name)
            if other != name:
                shared[f"{other}/{name}"] = shared.get(f"{other}/{name}", 0) + 1
    problems = [f"{count} images are in both {pair.replace('/', ' and ')}" for pair, count in shared.items()]
    return _verdict("V9", problems, {pair: float(count) for pair, count in shared.items()})


def certificates_hold(
    certified: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], clean: np.ndarray[Any, Any], patched: np.ndarray
) -> Check:
    """V17: certified images are right without the patch and with it, so that robust accuracy is never the lower one.

    Args:
        certified: (N,) bool.
        labels: (N,) class ids.
        clean: (N,) predictions without the patch.
        patched: (goals, N) predictions with it.
    """
    broken = certified & ((clean != labels) | (patched != labels).any(axis=0))
    figures = {"certified": float(certified.sum()), "broken": float(broken.sum())}
    problem = f"{int(broken.sum())} of {int(certified.sum())} certified images are classified wrongly"
    return _verdict("V17", [problem] if broken.any() else [], figures)


def merged(checks: list[Check]) -> tuple[Check, ...]:
    """One check per id: the worst verdict, all messages, all figures."""
    order = {"not-run": 0, "pass": 1, "warn": 2, "fail": 3}
    by_id: dict[str, Check] = {}
    for check in checks:
        seen = by_id.get(check.id)
        if seen is None:
            by_id[check.id] = check
            continue
        worst = max(seen.verdict, check.verdict, key=order.__getitem__)
        message = "; ".join(part for part in (seen.message, check.message) if part)
        by_id[check.id] = Check(id=check.id, verdict=worst, message=message, figures={**seen.figures, **check.figures})
    return tuple(sorted(by_id.values(), key=lambda check: int(check.id[1:])))


def _verdict(check: str, problems: list[str], figures: dict[str, float]) -> Check:
    finite = {name: value for name, value in figures.items() if value == value}
    return Check(id=check, verdict="fail" if problems else "pass", message="; ".join(problems), figures=finite)
