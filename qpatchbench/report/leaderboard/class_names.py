"""Names of classes and goals as pictures and pages show them, and as much of a name as fits."""

from __future__ import annotations

from collections.abc import Sequence

from qpatchbench.runs.outcomes import target_of
from qpatchbench.runs.run import Run


def class_names(run: Run) -> list[str]:
    """Of the run's dataset; none where the manifest has none."""
    return [str(name) for name in run.manifest.get("class_names", [])]


def class_name(number: int, classes: Sequence[str]) -> str:
    """Of a label or an answer; the number where it has no name.

    >>> class_name(1, ["cat", "dog"]), class_name(7, ["cat", "dog"])
    ('dog', '7')
    """
    return classes[number] if 0 <= number < len(classes) else str(number)


def goal_name(goal: str, classes: Sequence[str]) -> str:
    """Of a target class; an untargeted goal is called so."""
    number = target_of(goal)
    return goal if number < 0 else classes[number] if number < len(classes) else f"class {number}"


def aim(goal: str, classes: Sequence[str]) -> str:
    """The goal in a sentence: `target cat`, or `untargeted`."""
    return goal if target_of(goal) < 0 else f"target {goal_name(goal, classes)}"


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters.

    >>> shortened("great white shark", 10)
    'great whi…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
