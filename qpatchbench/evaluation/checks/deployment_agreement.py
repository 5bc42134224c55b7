"""V16: a runtime that computes with integers answers as the simulation of its quantization does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qpatchbench.evaluation.measure import eligible_images, fooled_images
from qpatchbench.evaluation.repeatability import FLIPS
from qpatchbench.runs.records import Check
from qpatchbench.statistics.intervals import CONFIDENCE, mcnemar_exact, wilson
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
    disturbed: Answers | None = None,
) -> Check:
    """V16 on one cell.

    Args:
        labels: (N,).
        simulated: what the row's numbers are made of.
        runtime: of the same images and patches.
        goals: of the patches.
        attacked: (goals, N) bool, where an attack left images alone.
        beyond: layers whose codes differ beyond rounding, in order of execution.
        disturbed: the simulation on images whose last digits are off; None: where nothing has to be told apart.

    Returns:
        `fail` where the runtime's ASR lies outside the 95 % interval of the simulation's, or where significantly more
        than 0.5 % of the predictions are others and significantly more (McNemar, p < 0.05) than `disturbed` has;
        `warn` where 0.5 % are, on too few images to tell, or no more than rounding changes in the simulation itself.
    """
    there = _changes(simulated, runtime)
    changed, total = int(there.sum()), there.size
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
    more = True
    if disturbed is not None:
        own = _changes(simulated, disturbed)
        figures["changed_by_noise"] = float(own.sum())
        text += f"; noise in the last digits of the images changes {int(own.sum())} of the simulation's own predictions"
        only = int((there & ~own).sum()), int((own & ~there).sum())
        more = only[0] > only[1] and mcnemar_exact(*only) < 1 - CONFIDENCE
    if outside or (more and wilson(changed, total).low > FLIPS):
        return Check(id="V16", verdict="fail", message=text, figures=figures)
    if differs(simulated, runtime):
        return Check(id="V16", verdict="warn", message=text, figures=figures)
    return Check(id="V16", verdict="pass", message=text, figures=figures)


def differs(simulated: Answers, runtime: Answers) -> bool:
    """Whether 0.5 % of the predictions are others, so that it has to be known what rounding alone changes."""
    changes = _changes(simulated, runtime)
    return bool(changes.any() and changes.mean() >= FLIPS)


def _changes(first: Answers, second: Answers) -> np.ndarray[Any, Any]:
    """Which predictions are others, all in one row."""
    return np.concatenate([(ours != theirs).ravel() for ours, theirs in zip(first, second, strict=True)])


def _success(
    labels: np.ndarray, answers: Answers, goals: tuple[Goal, ...], attacked: np.ndarray | None
) -> tuple[int, int]:
    """Fooled and eligible images over all goals."""
    eligible = eligible_images(labels, answers.clean, goals) & (True if attacked is None else attacked)
    fooled = fooled_images(labels, answers.clean, answers.patched, goals, attacked)
    return int(fooled.sum()), int(eligible.sum())
