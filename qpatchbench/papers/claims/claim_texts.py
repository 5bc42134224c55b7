"""Finding claims as tidy CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from qpatchbench.papers.claims.examine import UNDER_PROTOCOL, UNITS, VERDICTS, Finding, effect_text
from qpatchbench.papers.tables.table_texts import without_formulas
from qpatchbench.report.page.definitions import definitions_text
from qpatchbench.report.page.escaping import tex
from qpatchbench.report.page.grid import ENDING, PREAMBLE, Grid

COLUMNS = (
    *("claim", "paper", "where", "tables", "says", "hypothesis", "statistic", "quantity", "direction"),
    *(
        "threshold",
        "quantifier",
        "verdict",
        "under_protocol",
        "leans",
        "reason",
        "effect",
        "low",
        "high",
        "unit",
        "groups",
        "rows",
    ),
    *("decisive", "method", "here", "contradictions", "note", "runs"),
)
_WIDTHS = r"p{0.18\linewidth}p{0.36\linewidth}p{0.17\linewidth}p{0.09\linewidth}p{0.09\linewidth}"
_HEADING = ("claim", "says", "effect [95 %]", "as published", "under this protocol")


def as_csv(found: Sequence[Finding]) -> str:
    """One row per claim."""
    return Grid(COLUMNS, [_record(each) for each in found]).csv()


def as_markdown(found: Sequence[Finding]) -> str:
    """A table of verdicts, and below it every claim with where it is said and what was measured."""
    lines = ["# Claims", "", _counted(found), "", *(f"- {text}" for text in _definitions(found)), ""]
    lines += [Grid(_HEADING, [_short(each) for each in found]).markdown(), ""]
    for each in found:
        lines += [f"## {each.claim.id}", ""]
        lines += [f"{each.claim.says} ({each.claim.paper}, {each.claim.where}).", ""]
        lines += [f"- {name}: {text}" for name, text in _told(each)]
        lines += [""]
    return "\n".join(lines)


def as_latex(found: Sequence[Finding]) -> str:
    """A document: the table of verdicts, which needs booktabs, and a list of what was measured."""
    lines = [PREAMBLE + r"\noindent " + tex(_counted(found)), r"\begin{itemize}"]
    lines += [rf"\item {tex(text)}" for text in _definitions(found)]
    lines += [r"\end{itemize}"]
    # In parts: a tabular cannot break over pages.
    for first in range(0, len(found), 15):
        lines += [r"\begin{table}[!t]", r"\centering\small"]
        part = Grid(_HEADING, [_short(each) for each in found[first : first + 15]])
        lines += [part.latex(_WIDTHS), r"\end{table}"]
    lines += [r"\clearpage", r"\begin{description}"]
    for each in found:
        said = f"{tex(each.claim.says)} ({tex(each.claim.paper)}, {tex(each.claim.where)})."
        told = " ".join(rf"\emph{{{tex(name)}}}: {tex(without_formulas(text))}." for name, text in _told(each))
        lines += [rf"\item[{tex(each.claim.id)}] {said} {told}"]
    return "\n".join([*lines, r"\end{description}", ENDING])


def _counted(found: Sequence[Finding]) -> str:
    runs = dict.fromkeys(run for each in found for run in each.runs)
    published = _counts([each.verdict for each in found], [verdict for verdict, _ in VERDICTS])
    under = _counts([each.under for each in found], ["holds", "does not hold", "too close"])
    return (
        f"Of {len(found)} claims, as published: {published}. Under the protocol of these runs: "
        f"{under or 'none decided'}. Runs: {', '.join(runs) or 'none measured any'}."
    )


def _counts(given: Sequence[str], order: Sequence[str]) -> str:
    counted = Counter(given)
    return ", ".join(f"{counted[verdict]} {verdict}" for verdict in order if counted[verdict])


def _definitions(found: Sequence[Finding]) -> Iterator[str]:
    yield from (f"{verdict}: {text}" for verdict, text in VERDICTS)
    yield UNDER_PROTOCOL
    used = {each.claim.hypothesis.quantity for each in found}
    yield from definitions_text(tuple(used))


def _short(each: Finding) -> tuple[str, ...]:
    return each.claim.id, each.claim.says, _effect(each), each.verdict, under_text(each) or "-"


def under_text(found: Finding) -> str:
    """The verdict under the runs' protocol; what is too close, with the side on which it lies."""
    return f"{found.under} ({found.leans})" if found.under == "too close" else found.under


def _effect(each: Finding) -> str:
    if each.decisive is None:
        return "-"
    return effect_text(each.decisive.effect, each.claim.hypothesis.statistic)


def _told(each: Finding) -> Iterator[tuple[str, str]]:
    """Name and text of the lines about a claim, those that are empty left out."""
    claim = each.claim
    lines = (
        ("says", claim.says),
        ("tested", str(claim.hypothesis)),
        ("as published", each.verdict),
        ("under the protocol of these runs", under_text(each)),
        ("to decide it", each.wanting),
        ("here", each.here),
        ("because", each.reason),
        ("method", each.method),
        ("read", claim.note),
        *((f"{found.id}", found.text) for found in claim.contradictions),
    )
    yield from ((name, text) for name, text in lines if text)


def _number(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6g}"


def _record(each: Finding) -> tuple[object, ...]:
    claim, hypothesis = each.claim, each.claim.hypothesis
    tested = (
        *(hypothesis.statistic, hypothesis.quantity, hypothesis.direction),
        *(f"{hypothesis.threshold:g}", hypothesis.quantifier),
    )
    effect = each.decisive.effect if each.decisive is not None else None
    numbers = [_number(number) for number in (effect.value, effect.low, effect.high)] if effect else ["", "", ""]
    unit = UNITS[hypothesis.statistic] if hypothesis is not None and effect else ""
    return (
        *(claim.id, claim.paper, claim.where, " ".join(claim.tables), claim.says, hypothesis or ""),
        *tested,
        *(each.verdict, each.under, each.leans, each.reason, *numbers, unit),
        *(len(each.groups), sum(group.n_rows for group in each.groups)),
        " / ".join(each.decisive.name) if each.decisive is not None else "",
        *(each.method, each.here, " ".join(found.id for found in claim.contradictions), claim.note),
        " ".join(each.runs),
    )
