"""Sentences that answer the questions of a board, each with its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from qpatchbench.report.leaderboard.keys import FLOAT_BITS
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.threats import THREATS

_BASELINES = ("none", "qat")  # of several defenses, the one without a defense against patches
_COMPARED = ("unseen", "white_box", "from_32")
_NAMED = 4  # rows of a tie that are named


class Answer(NamedTuple):
    """A question and its sentences."""

    question: str
    sentences: tuple[str, ...]


def answers(found: Sequence[Standing], failed: Mapping[str, int] | None = None) -> tuple[Answer, ...]:
    """What the board says of transfer, of defenses, of low bits and of its own trustworthiness.

    Args:
        found: the board.
        failed: check -> rows of the log that failed it.
    """
    asked = (
        ("What does a patch from the float network do at fewer bits?", tuple(_transfer(found))),
        ("Which defense is best, and is the difference significant?", tuple(_best(found))),
        ("Do fewer bits protect against an attacker who knows the network?", tuple(_white_box(found))),
        ("Which rows may not be trusted, and why?", tuple(_trust(found, failed or {}))),
    )
    return tuple(Answer(question, sentences) for question, sentences in asked if sentences)


def stated(rate: ThreatRate) -> str:
    """`25.9 % [22.1, 30.2]`."""
    bound = "at least " if rate.at_least else ""
    return f"{bound}{rate.value:.1f} % [{rate.low:.1f}, {rate.high:.1f}]"


def _by_model(found: Sequence[Standing]) -> Iterator[list[Standing]]:
    groups: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for each in found:
        groups[each.dataset, each.model].append(each)
    yield from groups.values()


def _baseline(rows: Sequence[Standing]) -> list[Standing]:
    names = list(dict.fromkeys(each.defended for each in rows))
    name = next((each for each in _BASELINES if each in names), names[0])
    return [each for each in rows if each.defended == name]


def _transfer(found: Sequence[Standing]) -> Iterator[str]:
    for rows in _by_model(found):
        for each in _baseline(rows):
            rate, noise = each.rates.get("from_32"), each.rates.get("random")
            if rate is None or each.bits == FLOAT_BITS:
                continue
            times = (
                "" if noise is None or not noise.value > 0 else f", {rate.value / noise.value:.1f} times a random one"
            )
            yield (
                f"At {each.bits} bits ({each.quantization}) a patch made on the float network fools {stated(rate)} of "
                f"the images that {each.model} {each.defended} gets right{times}."
            )


def _best(found: Sequence[Standing]) -> Iterator[str]:
    several = len({each.model for each in found}) > 1
    for rows in _by_model(found):
        if len({each.defended for each in rows}) < 2:
            continue
        for bits in dict.fromkeys(each.bits for each in rows):
            for threat in _COMPARED:
                ranked = [each for each in rows if each.bits == bits and _rank(each, threat)]
                if len(ranked) > 1 and (threat, bits) != ("from_32", FLOAT_BITS):
                    best_first = sorted(ranked, key=lambda each: each.rates[threat].value)
                    yield (f"{rows[0].model}: " if several else "") + _ranking(best_first, threat, bits)


def _ranking(rows: Sequence[Standing], threat: str, bits: str) -> str:
    best = rows[0].rates[threat]
    tied = [each for each in rows[1:] if each.rates[threat].rank == best.rank]
    beaten = [each for each in rows if each.rates[threat].rank > best.rank]
    title = THREATS[threat].title
    first = f"{title.capitalize()} at {bits} bits: {rows[0].defended} is lowest, {stated(best)}"
    alike = ", ".join(f"{each.defended} ({each.rates[threat].value:.1f} %)" for each in tied[:_NAMED])
    more = f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else ""
    second = f"; {alike}{more} cannot be told from it" if tied else ""
    tests = "paired tests" if best.paired else "tests from the intervals"
    third = f"; {len(beaten)} of {len(rows)} are significantly higher" if beaten else "; no row is significantly higher"
    return f"{first}{second}{third} ({tests}, Holm)."


def _white_box(found: Sequence[Standing]) -> Iterator[str]:
    for rows in _by_model(found):
        own = [each for each in _baseline(rows) if "white_box" in each.rates]
        whole = next((each for each in own if each.bits == FLOAT_BITS), None)
        for each in own:
            if whole is not None and each is not whole:
                yield (
                    f"A patch made on {each.model} {each.defended} itself fools {stated(each.rates['white_box'])} at "
                    f"{each.bits} bits ({each.quantization}), and {stated(whole.rates['white_box'])} at 32."
                )


def _trust(found: Sequence[Standing], logged: Mapping[str, int]) -> Iterator[str]:
    failed: dict[str, list[str]] = defaultdict(list)
    for each in found:
        for verdict, check, where in each.verdicts():
            if verdict == "fail":
                failed[check].append(f"{each.label} ({where})")
    for check in sorted(failed, key=lambda name: int(name[1:])):
        rows = failed[check]
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        yield f"{check} failed in {len(rows)} of {len(found)} rows: {', '.join(rows[:_NAMED])}{more}."
    broken = [each for each in found if each.incomplete]
    if broken:
        yield f"Not everything was measured in {', '.join(each.label for each in broken[:_NAMED])}."
    if not failed and not broken:
        yield "No patch that the board shows failed a check; warnings stand in its last column."
    if logged:
        counts = ", ".join(f"{check} in {count}" for check, count in logged.items())
        yield f"Of all patches that were measured, failed checks: {counts} rows, which are marked and have no rank."


def _rank(each: Standing, threat: str) -> int:
    rate = each.rates.get(threat)
    return rate.rank if rate is not None else 0
