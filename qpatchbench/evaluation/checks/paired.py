"""Checks that compare cells on the same images, and so run at report time.

V2: does an optimised patch beat a random one? V4: does a patch from elsewhere beat the network's own? V13: does a
search without gradients beat every attack that has them?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qpatchbench.runs.records import Check
from qpatchbench.statistics.intervals import Array, Interval, mcnemar_exact, paired_difference

LEVEL = 0.05
FEWEST = 128  # images on which attacks with and without gradients are compared


def beats_control(optimised: Array, control: Array | None, eligible: Array, *, white_box: bool = True) -> Check:
    """Compare an optimised patch with the random control, image by image.

    Args:
        optimised: (seeds, goals, images) boolean, fooled by the optimised patch.
        control: the same for the random patch, or None where no control was evaluated.
        eligible: (seeds, goals, images) boolean, the images that count for both.
        white_box: whether the patch was crafted on this very network. A patch that fails on another network may
            just not transfer, which is a result; on its own network it is a broken attack or a masked gradient.

    Returns:
        `fail` (white box) or `warn` (transfer) unless the optimised patch fools significantly more: exact McNemar for
        one seed and goal, whose pairs are independent images; the paired cluster bootstrap otherwise.
    """
    if control is None:
        return Check(id="V2", verdict="not-run", message="no random control was evaluated on this network")
    total = int(eligible.sum())
    if not total:
        return Check(id="V2", verdict="not-run", message="no image is eligible")
    figures = {
        "fooled": float((eligible & optimised).sum()),
        "control_fooled": float((eligible & control).sum()),
        "eligible": float(total),
    }
    better, evidence, found = fools_more(optimised, control, eligible)
    figures |= found
    if better:
        return Check(id="V2", verdict="pass", figures=figures)
    message = (
        f"fools {figures['fooled']:.0f} of {total}, the random patch {figures['control_fooled']:.0f}: "
        f"not significantly more ({evidence})"
    )
    return Check(id="V2", verdict="fail" if white_box else "warn", message=message, figures=figures)


def own_patch_holds_up(own: Array, foreign: Sequence[tuple[str, Array]], eligible: Array) -> Check:
    """V4: compare a network's white-box patch with the patches of the same attack that were crafted elsewhere.

    Args:
        own: (seeds, goals, images) boolean, fooled by the patch crafted on this network.
        foreign: name of a source, and the same for its patch; at least one.
        eligible: (seeds, goals, images) boolean, the images that count.

    Returns:
        `fail` where a transferred patch fools significantly more, at a level shared by all of them (Bonferroni): the
        gradient that crafted the network's own patch is masked, or its crafting did not converge.
    """
    total = int(eligible.sum())
    if not total:
        return Check(id="V4", verdict="not-run", message="no image is eligible")
    name, best = max(foreign, key=lambda pair: int((eligible & pair[1]).sum()))
    figures = {
        "own_fooled": float((eligible & own).sum()),
        "foreign_fooled": float((eligible & best).sum()),
        "eligible": float(total),
    }
    inverted, evidence, found = fools_more(best, own, eligible, LEVEL / len(foreign))
    figures |= found
    if not inverted:
        return Check(id="V4", verdict="pass", figures=figures)
    message = (
        f"a patch from {name} fools {figures['foreign_fooled']:.0f} of {total}, the network's own "
        f"{figures['own_fooled']:.0f}: its own gradient is masked, or crafting did not converge ({evidence})"
    )
    return Check(id="V4", verdict="fail", message=message, figures=figures)


def gradients_hold_up(gradient: Array | None, scores: Array, eligible: Array) -> Check:
    """Compare the union of per-image attacks that follow gradients with those that see scores only, image by image.

    Args:
        gradient: (seeds, goals, images) boolean, fooled by any of the attacks with gradients; None if there is none
            that was free to do what the score-based ones did.
        scores: the same for the score-based attacks.
        eligible: (seeds, goals, images) boolean, the images that count.

    Returns:
        `fail` where scores alone fool significantly more: the gradient is masked.
    """
    total = int(eligible.sum())
    if gradient is None:
        message = "no per-image attack with gradients, as free in its places, was run on this network"
        return Check(id="V13", verdict="not-run", message=message)
    if total < FEWEST:
        return Check(id="V13", verdict="not-run", message=f"{total} eligible images, expected at least {FEWEST}")
    figures = {
        "scores_fooled": float((eligible & scores).sum()),
        "gradient_fooled": float((eligible & gradient).sum()),
        "eligible": float(total),
    }
    masked, evidence, found = fools_more(scores, gradient, eligible)
    figures |= found
    if not masked:
        return Check(id="V13", verdict="pass", figures=figures)
    message = (
        f"attacks without gradients fool {figures['scores_fooled']:.0f} of {total}, those with gradients "
        f"{figures['gradient_fooled']:.0f}: gradients are masked ({evidence})"
    )
    return Check(id="V13", verdict="fail", message=message, figures=figures)


def fools_more(
    first: Array, second: Array, eligible: Array, level: float = LEVEL
) -> tuple[bool, str, dict[str, float]]:
    """Whether `first` fools significantly more than `second`, the evidence in words, and its figures.

    The level applies to the exact test of one seed and goal; an interval is always one of 95 %.
    """
    if eligible.shape[:2] == (1, 1):
        only_first = int((eligible & first & ~second).sum())
        only_second = int((eligible & second & ~first).sum())
        p_value = mcnemar_exact(only_first, only_second)
        more = only_first > only_second and p_value < level
        return more, f"McNemar p = {p_value:.3g}", {"p_value": p_value}
    interval: Interval = paired_difference(first, eligible, second, eligible)
    more = not math.isnan(interval.low) and interval.low > 0
    evidence = f"95 % interval of the difference [{100 * interval.low:.1f}, {100 * interval.high:.1f}] points"
    return more, evidence, {"difference_low": interval.low, "difference_high": interval.high}
