"""Matching of rows with published numbers, facet by facet, so that what is missing can be named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from qpatchbench.papers import protocol
from qpatchbench.papers.printed.values import PublishedValue
from qpatchbench.papers.vocabulary import (
    DATASETS,
    DEFAULTS,
    MAIN_MODELS,
    MODELS,
    PATCH_SIZES,
    PREPROCESSORS,
    attack,
    defenses,
    quantizations,
    transformation,
)
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row

Record: TypeAlias = Row | Mapping[str, Any]  # of a leaderboard, or of an analysis
RATES = ("asr", "clean_accuracy", "robust_accuracy")
_Record = TypeVar("_Record", Row, Mapping[str, Any], Record)
_AREA = 0.3  # points of the image area by which a square patch may miss a noise percentage


@dataclass(frozen=True)
class Measured:
    """What a run found for a published number, in the published unit.

    Attributes:
        value, low, high: with its 95 % interval; NaN bounds where the run has none.
        n: images behind it, over all seeds and target classes.
        run: the folder it is from.
        row: what was matched, in words.
        departures: in what its protocol is not the paper's.
    """

    value: float
    low: float
    high: float
    n: int
    run: str
    row: str
    departures: tuple[str, ...] = ()


class Missing(NamedTuple):
    """Why nothing matches, and how many facets had matched before."""

    reason: str
    depth: int = 0


class Facet(NamedTuple):
    """A column of the rows, the values that fit in order of preference (none: any), and whether it is our guess."""

    name: str
    wanted: tuple[str, ...]
    assumed: bool = False


@dataclass
class Rows(Generic[_Record]):
    """Rows of one kind, filtered facet by facet; what was filtered once is remembered."""

    rows: Sequence[_Record]
    _known: dict[tuple[Facet, ...], Sequence[_Record]] = field(default_factory=dict)

    def matching(self, facets: Sequence[Facet]) -> Sequence[_Record] | Missing:
        """Rows that fit all facets, the preferred ones first; or the first facet that none fits."""
        rows = self.rows
        path: tuple[Facet, ...] = ()
        for depth, facet in enumerate(facets):
            earlier, path = rows, (*path, facet)
            if path not in self._known:
                self._known[path] = [row for row in earlier if _rank(row, facet) is not None]
            rows = self._known[path]
            if not rows:
                return Missing(_lacking(facet, earlier), depth)
        return sorted(rows, key=lambda row: [_rank(row, facet) or 0 for facet in facets])


@dataclass
class SearchedRun:
    """A run folder, prepared for many questions."""

    folder: RunFolder
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # published architecture -> one measured in its place

    def __post_init__(self) -> None:
        self.rows = Rows(self.folder.rows)

    @cached_property
    def alone(self) -> SearchedRun:
        """The same run without stand-ins."""
        return SearchedRun(self.folder) if self.stand_ins else self

    def find(self, table: str, value: PublishedValue, row_mode: str) -> Measured | Missing:
        """What this run measured for a published rate.

        Args:
            table: its name, `triqdef.5`.
            value: one of asr, clean_accuracy and robust_accuracy.
            row_mode: how the quantized networks of its row are quantized, where they share a mode.
        """
        patched = value.metric != "clean_accuracy"
        facets = self.facets(table, value, row_mode)
        found = self.rows.matching(facets)
        if isinstance(found, Missing):
            return found
        usable = [row for row in found if row.measured("asr" if patched else "clean_accuracy")]
        if not usable:
            return Missing(f"every cell failed: {found[0].status}", len(facets))
        best = [_rank(usable[0], facet) for facet in facets]
        chosen = [row for row in usable if [_rank(row, facet) for facet in facets] == best]
        # A patch made on the target's own backbone comes before one made on another training of it.
        chosen.sort(key=lambda row: row.source_defense != row.defense)
        return self._measured(value, chosen if _varies(value) else chosen[:1], facets)

    def models(self, value: PublishedValue, dataset: str) -> tuple[str, ...]:
        """What the published architecture is called in a run, and what stands in for it."""
        model = value.model or MAIN_MODELS[dataset]
        # Between architectures a stand-in could turn out to be the source itself.
        stand_in = self.stand_ins.get(model) if not value.source_model else None
        return (*MODELS.get(model, (model,)), *filter(None, (stand_in,)))

    def facets(self, table: str, value: PublishedValue, row_mode: str) -> list[Facet]:
        """What a row has to fit, in the order in which it is looked for."""
        dataset = value.dataset or DATASETS.get(table, "")
        models = self.models(value, dataset)
        bits = value.target_bits or DEFAULTS["target_bits"]
        settings = defenses(value, row_mode)
        named = [title for setting in settings for title in protocol.titles(self.folder, "defenses", setting)]
        before = (value.defense,) if value.defense in PREPROCESSORS else ("none",)
        facets = [
            Facet("dataset", (dataset,), not value.dataset),
            Facet("model", models, not value.model),
            # Where the run has no such variant, words that no row can fit say what was looked for.
            Facet("defense", tuple(dict.fromkeys(named or map(str, settings)))),
            Facet("preprocessor", before),
            Facet("quantization", quantizations(table, value), not value.quantization),
            Facet("target_bits", (bits,), not value.target_bits),
        ]
        return facets if value.metric == "clean_accuracy" else [*facets, *self._patch_facets(value, dataset, models)]

    def _patch_facets(self, value: PublishedValue, dataset: str, models: tuple[str, ...]) -> list[Facet]:
        wanted = attack(value)
        named = protocol.titles(self.folder, "attacks", wanted)
        source = (value.source_model,) if value.source_model else models
        # An undefended network trained on no patch: all are alike to it.
        known = (value.seen,) if value.seen and value.defense != "none" else (value.seen, "", "seen")
        if value.epsilon:
            patch = Facet("size", ())
        elif value.noise_percentage:
            patch = Facet("area_percent", (value.noise_percentage,))
        elif _varies(value):
            patch = Facet("size", (), assumed=True)
        else:
            patch = Facet("size", (value.patch_size or PATCH_SIZES[dataset],), not value.patch_size)
        return [
            Facet("attack", named or (wanted.name,), not value.attack),
            patch,
            Facet("source_model", source),
            Facet("source_bits", (value.source_bits,) if value.source_bits else ()),
            Facet("seen", tuple(dict.fromkeys(known))),
            Facet("transformation", (transformation(value),)),
            Facet("source_preprocessor", ("none",)),  # the papers craft on bare networks
        ]

    def _measured(self, value: PublishedValue, rows: Sequence[Row], facets: Sequence[Facet]) -> Measured:
        patched = value.metric != "clean_accuracy"
        each = [_rate(row, value.metric) for row in rows]
        meant = {name for setting in defenses(value, "") for name in setting.fields}
        dataset = rows[0].base
        told = [*protocol.of_run(self.folder, value, dataset)]
        told += [text for row in rows for text in protocol.of_row(self.folder, row, meant, patched=patched)]
        if patched:
            told += [f"checks: {text}" for row in rows if (text := row.failed_checks)]
        model = value.model or MAIN_MODELS[dataset]
        if rows[0].model not in MODELS.get(model, (model,)):
            told.append(protocol.other_architecture(rows[0].model, model))
        # The mean of bounds is a bound of the mean, however the rows depend on each other. A plain `sum` rounds
        # differently from Python 3.12 on.
        mean = [math.fsum(rate[place] for rate in each) / len(each) for place in range(3)]
        more = f", mean of {len(rows)} rows" if len(rows) > 1 else ""
        return Measured(
            mean[0],
            mean[1],
            mean[2],
            sum(n for *_, n in each),
            self.folder.name,
            _described(rows[0], facets) + more,
            tuple(dict.fromkeys(told)),
        )


def _varies(value: PublishedValue) -> bool:
    """Whether a number is one over unseen patches of varying size and bit-width."""
    return value.seen == "unseen" and not value.source_bits


def _rate(row: Row, metric: str) -> tuple[float, float, float, int]:
    """Value, bounds and images of a rate."""
    images = row.count("n_eligible") if metric == "asr" else row.count("n_images") * row.count("seeds")
    return row.number(metric), *row.interval(metric), images


def column(row: Record, name: str) -> str:
    """A facet of a row as text; the dataset without its note."""
    name = "base" if name == "dataset" else name
    return row.text(name) if isinstance(row, Row) else str(row[name])


def _rank(row: Record, facet: Facet) -> int | None:
    """Place of the row's value among the wanted ones; None where it does not fit."""
    if not facet.wanted:
        return 0
    if facet.name == "area_percent" and isinstance(row, Row):
        return 0 if abs(row.number(facet.name) - 100 * float(facet.wanted[0])) <= _AREA else None
    found = column(row, facet.name)
    return next((place for place, wanted in enumerate(facet.wanted) if _fits(found, wanted)), None)


def _fits(found: str, wanted: str) -> bool:
    """Whether they are the same; `ptq*` stands for all that begin so."""
    return found.startswith(wanted[:-1]) if wanted.endswith("*") else found == wanted


def _lacking(facet: Facet, rows: Sequence[Record]) -> str:
    shown = [text or "none" for text in dict.fromkeys(column(row, facet.name) for row in rows)][:5]
    wanted = " or ".join(text or "none" for text in facet.wanted)
    guess = " (not stated, assumed)" if facet.assumed else ""
    return f"no row with {facet.name} {wanted}{guess}; there: {', '.join(shown) or 'nothing'}"


def _described(row: Row, facets: Sequence[Facet]) -> str:
    told = [(facet, row.text(facet.name)) for facet in facets]
    guess = " (assumed)"
    return ", ".join(f"{facet.name} {text}{guess * facet.assumed}" for facet, text in told if text not in ("", "none"))
