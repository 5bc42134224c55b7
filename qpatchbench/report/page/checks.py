"""Every validity check in words, and what it found over all rows of a leaderboard."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS, Explanation
from qpatchbench.runs.records import Check, Verdict

# The document's lines are as wide as those of the code.
_fill = partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
_INTRODUCTION = (
    "Every number of a leaderboard is followed by the checks that it failed, or that warn. A failed check hides no "
    "number: the row is shown, marked, and has no rank. `evaluation.checks: fast` is the default; `full` adds V11, "
    "V12 and V14, which craft patches again and measure them on 128 images; `off` leaves all but V2, V4 and V13 out. "
    "report.html counts the verdicts of a run."
)


class CheckCount(NamedTuple):
    """One check over all rows.

    Attributes:
        check: V1..V17.
        explanation: the check in words.
        counts: rows by verdict; a row without a verdict has not run it.
        warned: label of a row and what was found, where the verdict is a warning.
    """

    check: str
    explanation: Explanation
    counts: dict[Verdict, int]
    warned: tuple[tuple[str, str], ...]


def overview(labels: Sequence[str], checks: Sequence[Sequence[Check]]) -> tuple[CheckCount, ...]:
    """What every check found, in their order.

    Args:
        labels: name of every row.
        checks: checks of every row, at most one per id.
    """
    found = []
    for name, explanation in EXPLANATIONS.items():
        own = [next((check for check in row if check.id == name), None) for row in checks]
        counts = Counter(check.verdict if check else "not-run" for check in own)
        warned = [
            (label, check.message)
            for label, check in zip(labels, own, strict=True)
            if check is not None and check.verdict == "warn"
        ]
        verdicts: tuple[Verdict, ...] = ("pass", "warn", "fail", "not-run")
        found.append(CheckCount(name, explanation, {verdict: counts[verdict] for verdict in verdicts}, tuple(warned)))
    return tuple(found)


def checks_document() -> str:
    """All checks as Markdown: results/CHECKS.md."""
    parts = [
        "# Validity checks",
        _fill(_INTRODUCTION),
    ]
    for name, check in EXPLANATIONS.items():
        parts.append(f"## {name}: {check.title}")
        lines = (
            ("Raised if", check.raised_if),
            ("Means", check.means),
            ("Do", check.do),
            ("Not run if", check.not_run),
        )
        parts.append("\n".join(_fill(f"- **{what}:** {text}.", subsequent_indent="  ") for what, text in lines))
    return "\n\n".join(parts) + "\n"
