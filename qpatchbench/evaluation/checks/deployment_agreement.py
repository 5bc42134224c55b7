"""V16: a runtime that computes with integers answers as the simulation of its quantization does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qpatchbench.evaluation.measure import eligible_images, fooled_images
from qpatchbench.evaluation.repeatability import FLIPS
from qpatchbench.runs.records import Check
from qpatchbench.statistics.intervals import wilson
from qpatchbench.types import Goal

_NAMED = 3  # layers that a message names


class Answers(NamedTuple):
    """Predictions of one network: clean (N,) and patched (goals, N), int."""

    clean: np.ndarray
    patched: np.ndarray


def deployment_agrees(
    labels: np.ndarray,
    simulated: Answers,
    runtime: Answers,
    goals: tuple[Goal, ...],
    attacked: np.ndarray | None,
    beyond: Sequence[Mapping[str, Any]],
) -> Check:
    """V16 on one cell.

    Args:
        labels: (N,).
        simulated: what the row's numbers are made of.
        runtime: of the same images and patches.
        goals: of the patches.
        attacked: (goals, N) bool, where an attack left images alone.
        beyond: layers whose codes differ beyond rounding, in order of execution.

    Returns:
        `fail` where significantly more than 0.5 % of the predictions are others, or the runtime's ASR lies outside the
        95 % interval of the simulation's; `warn` where 0.5 % are, on too few images to tell.
    """
    total = simulated.clean.size + simulated.patched.size
    changed = int((simulated.clean != runtime.clean).sum() + (simulated.patched != runtime.patched).sum())
    ours, theirs = (_success(labels, answers, goals, attacked) for answers in (simulated, runtime))
    low, high = wilson(*ours)
    rates = [fooled / max(1, eligible) for fooled, eligible in (ours, theirs)]
    figures = {"changed": float(changed), "of": float(total), "asr": rates[0], "asr_runtime": rates[1]}
    figures |= {"fooled_runtime": float(theirs[0]), "eligible_runtime": float(theirs[1])}
    outside = bool(ours[1] and theirs[1]) and not low <= rates[1] <= high
    text = (
        f"the runtime changes {changed} of {total} predictions; asr {100 * rates[1]:.1f} % there, "
        f"{100 * rates[0]:.1f} % [{100 * low:.1f}, {100 * high:.1f}] simulated"
    )
    named = [f"{layer['layer']} ({100 * layer['beyond'] / layer['codes']:.2g} %)" for layer in beyond[:_NAMED]]
    if named:
        text += f"; codes differ by more than one at the input of {', '.join(named)}"
    if outside or wilson(changed, total).low > FLIPS:
        return Check(id="V16", verdict="fail", message=text, figures=figures)
    if changed >= FLIPS * total and changed:
        return Check(id="V16", verdict="warn", message=text, figures=figures)
    return Check(id="V16", verdict="pass", message=text, figures=figures)


def _success(
    labels: np.ndarray, answers: Answers, goals: tuple[Goal, ...], attacked: np.ndarray | None
) -> tuple[int, int]:
    """Fooled and eligible images over all goals."""
    eligible = eligible_images(labels, answers.clean, goals) & (True if attacked is None else attacked)
    fooled = fooled_images(labels, answers.clean, answers.patched, goals, attacked)
    return int(fooled.sum()), int(eligible.sum())
