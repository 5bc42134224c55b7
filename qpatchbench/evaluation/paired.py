"""V2: does an optimised patch beat a random one on the same images? Needs two cells, so it runs at report time."""

from __future__ import annotations

import math

from qpatchbench.evaluation.records import Check
from qpatchbench.evaluation.statistics import Array, Interval, mcnemar_exact, paired_difference

LEVEL = 0.05


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
    only_first = int((eligible & optimised & ~control).sum())
    only_second = int((eligible & control & ~optimised).sum())
    figures = {
        "fooled": float((eligible & optimised).sum()),
        "control_fooled": float((eligible & control).sum()),
        "eligible": float(total),
    }
    if eligible.shape[:2] == (1, 1):
        p_value = mcnemar_exact(only_first, only_second)
        better = only_first > only_second and p_value < LEVEL
        figures["p_value"] = p_value
        evidence = f"McNemar p = {p_value:.3g}"
    else:
        interval: Interval = paired_difference(optimised, eligible, control, eligible)
        better = not math.isnan(interval.low) and interval.low > 0
        figures |= {"difference_low": interval.low, "difference_high": interval.high}
        evidence = f"95 % interval of the difference [{100 * interval.low:.1f}, {100 * interval.high:.1f}] points"
    if better:
        return Check(id="V2", verdict="pass", figures=figures)
    message = (
        f"fools {figures['fooled']:.0f} of {total}, the random patch {figures['control_fooled']:.0f}: "
        f"not significantly more ({evidence})"
    )
    return Check(id="V2", verdict="fail" if white_box else "warn", message=message, figures=figures)
