"""Standings: what every kind of attacker achieves against each defended network at each bit-width."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.row import behind
from qpatchbench.report.standings.experiments import Experiment, MemberRow, rate_of
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.threats import (
    ACCURACIES,
    OF_ROWS,
    RANKED,
    THREATS,
    board_size,
    sizes_of_threats,
    threats_of,
)
from qpatchbench.report.standings.tie_ranks import rank_rates
from qpatchbench.report.standings.worst_case import worst_case

Members = tuple[MemberRow, ...]


class RowVerdict(NamedTuple):
    """A check that failed or warned, and the titles of the threats whose patch it is about."""

    verdict: str
    check: str
    where: str


@dataclass(frozen=True)
class Standing:
    """One defended network at one bit-width, or set of them.

    Attributes:
        size: of the patches that are compared, where a threat has them.
        runs: the folders it comes from.
        images: fingerprint of the evaluation images.
        seeds: how many were pooled.
        partial: whether --limit cut the evaluation images.
        incomplete: what of it failed, `1 of 3 seeds failed`; empty where nothing did.
        rates: by threat, in the order of THREATS; what was not measured is left out.
    """

    dataset: str
    model: str
    defense: str
    preprocessor: str
    quantization: str
    bits: str
    size: str
    experiment: str
    runs: tuple[str, ...]
    images: str
    seeds: int
    partial: bool
    incomplete: str
    rates: Mapping[str, ThreatRate]

    @property
    def defended(self) -> str:
        """The defense with what stands before it: `pbat + jedi`."""
        return self.defense + behind(self.preprocessor)

    @property
    def label(self) -> str:
        """`resnet20 pbat qat@4`."""
        return f"{self.model} {self.defended} {self.quantization}@{self.bits}"

    def verdicts(self, columns: Collection[str] = OF_ROWS) -> tuple[RowVerdict, ...]:
        """Failed checks first, then warnings, each with those of `columns` whose patch has it."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for threat in OF_ROWS:
            rate = self.rates.get(threat)
            if rate is None or threat not in columns:
                continue
            for part in filter(None, rate.checks.split("; ")):
                verdict, *names = part.split()
                for name in names if verdict in ("fail", "warn") else ():
                    found[verdict, name].append(THREATS[threat].title)
        return tuple(
            RowVerdict(verdict, name, ", ".join(dict.fromkeys(where)))
            for (verdict, name), where in sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1][1:])))
        )


def standings(experiments: Sequence[Experiment], size: str = "") -> tuple[Standing, ...]:
    """One row per (dataset, model, defense, preprocessor, quantizer, bits), best white-box rate first.

    Args:
        experiments: what was read.
        size: of the patches compared, `6x6`; that of most white-box rows of each dataset and model if "".
    """
    boards: dict[tuple[str, str], list[tuple[Experiment, Members]]] = defaultdict(list)
    for experiment in experiments:
        for members in experiment.rows:
            row = members[0].row
            boards[row.dataset, row.model].append((experiment, members))
    found = [each for board in boards.values() for each in _board(board, size)]
    return tuple(sorted(_ranked(found), key=_order))


def _board(rows: Sequence[tuple[Experiment, Members]], size: str) -> list[Standing]:
    known = [members[0].row for _, members in rows]
    size = size or board_size(known)
    sizes = sizes_of_threats(known, size) if size else {}
    groups: dict[tuple[object, ...], list[tuple[Experiment, Members]]] = defaultdict(list)
    for experiment, members in rows:
        row = members[0].row
        key = (experiment.runs, row.defense, row.preprocessor, row.quantization, row.target_bits)
        groups[key].append((experiment, members))
    return [_standing(group[0][0], [members for _, members in group], size, sizes) for group in groups.values()]


def _standing(experiment: Experiment, rows: Sequence[Members], size: str, sizes: Mapping[str, str]) -> Standing:
    row = rows[0][0].row
    finished = [members for members in rows if members[0].row.measured("asr")]
    broken = [member.row.status for members in rows for member in members if member.row.status != "ok"]
    here = [members for members in finished if members[0].row.size == size and not members[0].row.transformation]
    rates: dict[str, ThreatRate] = {}
    if finished:
        rates["clean"] = replace(
            rate_of(finished[0], "clean_accuracy"), attack="", size="", source="", place=0, checks=""
        )
    controlled = [members for members in here if members[0].row.measured("asr_control")]
    if controlled:
        most = max(controlled, key=lambda members: members[0].row.count("n_eligible"))
        rates["random"] = replace(rate_of(most, "asr_control"), attack="random", source="", place=0, checks="")
    for threat, wanted in sizes.items():
        known = [each for each in finished if threat in threats_of(each[0].row) and each[0].row.size == wanted]
        if known:
            rates[threat] = rate_of(max(known, key=lambda each: rate_of(each, "asr", with_images=False).value), "asr")
    worst = worst_case([members for members in here if threats_of(members[0].row)])
    if worst is not None:
        rates["worst"] = replace(worst, size=size)
    certified = [members for members in here if members[0].row.measured("certified_accuracy")]
    if certified:
        rates["certified"] = replace(rate_of(certified[0], "certified_accuracy"), attack="", source="", checks="")
    return Standing(
        row.dataset, row.model, row.defense, row.preprocessor, row.quantization, row.target_bits, size,
        experiment.name, experiment.runs, experiment.images,
        max(sum(member.row.count("seeds") for member in members) for members in rows),
        experiment.partial, _incomplete(broken, len(rows)), {name: rates[name] for name in THREATS if name in rates},
    )  # fmt: skip


def _incomplete(broken: Sequence[str], rows: int) -> str:
    return f"{len(broken)} of {rows} patches not measured on every seed" if broken else ""


def _ranked(found: Sequence[Standing]) -> list[Standing]:
    """Ranks of every threat among standings of the same dataset, model, bits, size and images."""
    contests: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, each in enumerate(found):
        contests[each.dataset, each.model, each.bits, each.size, each.images].append(place)
    rates = [dict(each.rates) for each in found]
    for places in contests.values():
        for threat in RANKED:
            ranking = rank_rates([rates[place].get(threat) for place in places], higher_is_better=threat in ACCURACIES)
            for position, rank in ranking.ranks.items():
                place = places[position]
                rates[place][threat] = replace(rates[place][threat], rank=rank, paired=ranking.paired)
    return [replace(each, rates=own) for each, own in zip(found, rates, strict=True)]


def _order(each: Standing) -> tuple[object, ...]:
    rate = each.rates.get("white_box") or each.rates.get("worst") or each.rates.get("unseen")
    value = math.inf if rate is None or math.isnan(rate.value) else rate.value
    return each.dataset, each.model, bits_order(each.bits), value, each.defended, each.quantization, each.experiment
