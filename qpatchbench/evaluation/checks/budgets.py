"""V11, V12 and V14: an attack uses its budget, follows the gradient that serves it best, and does what it is said to.

All compare patches of one attack on the very network they were crafted on. Crafting is itself random, which an
interval over images does not cover: a difference has to be significant and of `LEAST_GAP` at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qpatchbench.evaluation.checks.paired import LEVEL, fools_more
from qpatchbench.runs.records import Check, Verdict
from qpatchbench.statistics.intervals import Array, wilson

LEAST_GAP = 0.05  # of the eligible images
LEAST_DISAGREEMENT = 0.10  # the same between implementations, whose draws have nothing in common
# Share of the images that a patch of the whole image has to fool. Any one answer to all of them fools 90 % of ten
# classes, and few steps do not reach the target of every goal.
LEAST_WHOLE = 0.95


class Rung(NamedTuple):
    """The row's attack with one part of its budget changed.

    Attributes:
        text: what is different: "a quarter of the steps (25)".
        fooled: (1, goals, images) boolean.
        less: whether this is the smaller budget of the two.
        same: whether its patch is the row's own, bit for bit.
    """

    text: str
    fooled: Array
    less: bool
    same: bool = False


def budget_is_used(own: Array, eligible: Array, rungs: Sequence[Rung], whole: Array | None) -> Check:
    """V11: more steps, more restarts or a larger patch never fool significantly fewer images.

    Args:
        own: (1, goals, images) boolean, fooled by the row's patch.
        eligible: (1, goals, images) boolean, the images that count.
        rungs: other budgets of the same attack on the same network and images.
        whole: fooled by a patch of the whole image, where it could fool all of them; else None.

    Returns:
        `fail` where a larger budget fools significantly fewer, where a smaller one gives the very same patch although
        images are left to fool, or where a patch of the whole image leaves some unfooled.
    """
    total = int(eligible.sum())
    if not total:
        return Check(id="V11", verdict="not-run", message="no image is eligible")
    fooled = _count(own, eligible)
    figures = {"fooled": float(fooled), "eligible": float(total)}
    problems = []
    for rung in rungs:
        count = _count(rung.fooled, eligible)
        figures[rung.text] = float(count)
        smaller, larger = (rung.fooled, own) if rung.less else (own, rung.fooled)
        if rung.same and fooled < total:
            problems.append(f"{rung.text} give the very same patch: they are not used, or the gradient is zero")
        drop, evidence = _clearly_more(smaller, larger, eligible, len(rungs))
        if drop:
            than = "more" if rung.less else "fewer"
            problems.append(f"{rung.text} fool {than}, {count} of {total}, the row's patch {fooled} ({evidence})")
    if whole is not None:
        count = _count(whole, eligible)
        figures["whole image"] = float(count)
        if wilson(count, total).high < LEAST_WHOLE:
            problems.append(f"a patch of the whole image fools {count} of {total} only")
    return Check(id="V11", verdict="fail" if problems else "pass", message="; ".join(problems), figures=figures)


def gradients_agree(own: str, variants: Mapping[str, Array], eligible: Array) -> Check:
    """V12: no other gradient than the one that the attack followed makes a stronger patch.

    Args:
        own: name of the gradient that was followed.
        variants: name of a gradient -> (1, goals, images) boolean, fooled by the patch that follows it; `own` too.
        eligible: (1, goals, images) boolean, the images that count.

    Returns:
        `warn` where another one fools significantly more; the message names the strongest in any case.
    """
    total = int(eligible.sum())
    if not total:
        return Check(id="V12", verdict="not-run", message="no image is eligible")
    counts = {name: _count(fooled, eligible) for name, fooled in variants.items()}
    figures = {**{name: float(count) for name, count in counts.items()}, "eligible": float(total)}
    best = max(counts, key=lambda name: (counts[name], name == own))
    found = ", ".join(f"{name} {count}" for name, count in counts.items())
    more, evidence = _clearly_more(variants[best], variants[own], eligible, len(variants) - 1)
    if best == own or not more:
        message = f"the strongest gradient is {best}; of {total} images fool: {found}"
        return Check(id="V12", verdict="pass", message=message, figures=figures)
    message = (
        f"following the gradient {best} fools {counts[best]} of {total}, following {own}, as here, {counts[own]}: "
        f"the row is no worst case ({evidence}; {found})"
    )
    return Check(id="V12", verdict="warn", message=message, figures=figures)


def implementations_agree(own: Array, second: Array, eligible: Array) -> Check:
    """V14: a second implementation of the row's attack, at the same fields, reaches its goals about as often.

    Args:
        own: (1, goals, images) boolean, where the row's patch reached its goal: the target, or any wrong answer.
        second: the same for the patch of the second implementation.
        eligible: (1, goals, images) boolean, the images that count.

    Returns:
        `fail` where the second reaches it significantly more often, and by `LEAST_DISAGREEMENT` at least: the row's
        attack is wrong, or badly tuned. `warn` where it is the other way about: then nothing confirms the row.
    """
    total = int(eligible.sum())
    if not total:
        return Check(id="V14", verdict="not-run", message="no image is eligible")
    ours, theirs = _count(own, eligible), _count(second, eligible)
    figures = {"own": float(ours), "second": float(theirs), "eligible": float(total)}
    more, evidence = _clearly_more(second, own, eligible, 2, LEAST_DISAGREEMENT)
    fewer, other = _clearly_more(own, second, eligible, 2, LEAST_DISAGREEMENT)
    verdict: Verdict = "fail" if more else "warn" if fewer else "pass"
    message = f"a second implementation reaches the goal on {theirs} of {total}, the row's on {ours}"
    found = f" ({evidence if more else other})" if more or fewer else ""
    return Check(id="V14", verdict=verdict, message=message + found, figures=figures)


def _count(fooled: Array, eligible: Array) -> int:
    return int((eligible & fooled).sum())


def _clearly_more(
    first: Array, second: Array, eligible: Array, comparisons: int, least: float = LEAST_GAP
) -> tuple[bool, str]:
    """Whether `first` fools significantly more, and by enough to matter; the evidence in words."""
    gap = (_count(first, eligible) - _count(second, eligible)) / int(eligible.sum())
    more, evidence, _ = fools_more(first, second, eligible, LEVEL / max(1, comparisons))
    return more and gap >= least, evidence
