"""Choice of the rows that a claim is about, and of those that stand against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qpatchbench.papers import protocol
from qpatchbench.papers.claims.hypotheses import Claim, Hypothesis, Selection
from qpatchbench.papers.claims.sampler import Sampler, has_quantity
from qpatchbench.papers.matching import Facet, Missing, Record, Rows, column
from qpatchbench.papers.printed.values import values_by_table
from qpatchbench.papers.vocabulary import DATASETS, MAIN_MODELS, MODELS
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import OTHER_ARCHITECTURE, OTHER_TRAINING, OWN, Row, base_name

_NETWORK = {
    "dataset": ("base",),
    "model": ("model",),
    "defense": ("defense",),
    "preprocessor": ("preprocessor",),
    # 32 bits are float in every mode.
    "target_bits": ("target_bits", "quantization"),
}
_PATCH = {
    "attack": ("attack",),
    "size": ("size",),
    "source": ("made_on", "source_quantization"),
    "source_bits": ("source_bits", "source_quantization"),
    "seen": ("seen",),
    "transformation": ("transformation",),
}
_GRADIENTS = {"images": ("images",), "bits": ("bits",)}
FACETS = {*_NETWORK, *_PATCH, *_GRADIENTS, "quantization", "source_model", "same_bits"}


class _Analysis(NamedTuple):
    """Where a quantity is that no leaderboard has.

    Attributes:
        table: of the run folder.
        agreeing: columns in which two rows have to agree.
        departures: of a row from what the papers state.
        facets: of all its rows.
    """

    table: str
    agreeing: tuple[str, ...]
    departures: Callable[[RunFolder, Mapping[str, Any]], Iterator[str]]
    facets: tuple[Facet, ...] = ()


_ANALYSES: Mapping[str, _Analysis] = {
    "relative_time": _Analysis("costs", ("base", "model", "seed"), protocol.of_costs),
    "relative_inference": _Analysis("costs", ("base", "model", "seed", "inference_bits"), protocol.of_costs),
    "gradient_cosine": _Analysis(
        "gradients",
        ("base", "model", "defense", "quantization", "seed", "bits"),
        protocol.of_gradients,
        (Facet("metric", ("cosine",)),),
    ),
}


@dataclass
class ClaimSource:
    """A run folder, prepared for many claims.

    Attributes:
        checkpoints: keys of its trained networks.
    """

    folder: RunFolder

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.folder)
        self.rows = Rows(self.folder.rows)
        base = base_name(self.folder.dataset)
        found = {"costs": self.folder.whole_costs, "gradients": self.folder.gradients}
        self.analyses = {name: Rows([{**row, "base": base} for row in rows]) for name, rows in found.items()}
        self.checkpoints = frozenset(str(each["key"]) for each in self.folder.manifest.get("checkpoints", ()))


class Stand(NamedTuple):
    """Rows that are averaged, and those that they stand against; alike in all that the claim does not vary."""

    source: ClaimSource
    rows: tuple[Record, ...]
    baseline: tuple[Record, ...]


def stands(hypothesis: Hypothesis, source: ClaimSource) -> list[Stand] | Missing:
    """All comparisons of a hypothesis in one run, or what is missing there."""
    found = _selected(hypothesis, hypothesis.rows, source)
    if isinstance(found, Missing):
        return found
    if hypothesis.baseline is None:
        return [Stand(source, (row,), ()) for row in found]
    against = _selected(hypothesis, hypothesis.baseline, source)
    if isinstance(against, Missing):
        return Missing(f"baseline: {against.reason}", 100 + against.depth)
    columns = _agreeing(hypothesis)
    by_key: dict[tuple[object, ...], tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
    for place, rows in enumerate((found, against)):
        for row in rows:
            # Groups within the rows: what the claim varies and tells apart is not averaged away.
            by_key[tuple(column(row, name) for name in columns)][place].append(row)
    pairs = [(ours, theirs) for ours, theirs in by_key.values() if ours and theirs]
    if not pairs:
        return Missing(f"no row and baseline that agree in {', '.join(columns)}", 200)
    return [
        Stand(source, tuple(group), tuple(theirs))
        for ours, theirs in pairs
        for group in _grouped(ours, hypothesis.each).values()
    ]


def group_of(row: Record, each: Sequence[str]) -> tuple[str, ...]:
    """Values of the facets that make a group."""
    return tuple(column(row, facet) for facet in each)


def departures(claim: Claim, found: Sequence[Stand]) -> list[str]:
    """In what the protocol of the rows is not the paper's, and which checks they failed."""
    patched = claim.hypothesis.quantity != "clean_accuracy"
    told: dict[str, None] = {}
    for stand in found:
        for row in (*stand.rows, *stand.baseline):
            told |= dict.fromkeys(_departures(claim, stand.source.folder, row, patched=patched))
    return list(told)


def _departures(claim: Claim, folder: RunFolder, row: Record, *, patched: bool) -> Iterator[str]:
    values = [value for table in claim.tables for value in values_by_table().get(table, ())]
    datasets = {value.dataset or DATASETS.get(f"{value.paper}.{value.table}", "") for value in values} - {""}
    base, own_model = column(row, "base"), column(row, "model")
    models = {value.model for value in values if value.model} or {MAIN_MODELS.get(base, "")}
    if datasets and base not in datasets:
        yield f"dataset: {base} instead of {' or '.join(sorted(datasets))}"
    if not any(own_model in MODELS.get(model, (model,)) for model in models):
        yield f"architecture: {own_model} instead of {' or '.join(sorted(models))}"
    if not isinstance(row, Row):
        yield from _ANALYSES[claim.hypothesis.quantity].departures(folder, row)
        return
    yield from protocol.of_run(folder, values[0], base)
    named = [named for side in _sides(claim.hypothesis) for named in side.components.get("defense", ())]
    meant = {name for each in named for name in each.fields}
    yield from protocol.of_row(folder, row, meant, patched=patched)
    if patched and (text := row.failed_checks):
        yield f"checks: {text}"


def _sides(hypothesis: Hypothesis) -> Iterator[Selection]:
    yield hypothesis.rows
    if hypothesis.baseline is not None:
        yield hypothesis.baseline


def _selected(hypothesis: Hypothesis, selection: Selection, source: ClaimSource) -> list[Record] | Missing:
    analysis = _ANALYSES.get(hypothesis.quantity)
    clean = hypothesis.quantity == "clean_accuracy"
    facets = [
        Facet(kind, tuple(_titles(source.folder, kind, selection)))
        for kind in selection.components
        if kind == "defense" or not (analysis or clean)
    ]
    found: Sequence[Record] | Missing
    if analysis:
        rows = source.analyses[analysis.table]
        if not rows.rows:
            return Missing(f"the run has no {analysis.table}")
        facets += [Facet(name, values) for name, values in selection.facets.items()]
        found = rows.matching([*facets, *analysis.facets])
    else:
        given = {"preprocessor": ("none",), **({} if clean else {"transformation": ("",)}), **selection.facets}
        crafted = () if clean or "source" in given else (OWN, OTHER_TRAINING, OTHER_ARCHITECTURE)
        facets += [Facet(name, values) for name, values in given.items()]
        facets += [Facet("source", crafted)] if crafted else []
        found = source.rows.matching(facets)
    if isinstance(found, Missing):
        return found
    known: dict[object, Record] = {}
    for row in found:
        key = tuple(column(row, name) for names in _NETWORK.values() for name in names) if clean else id(row)
        if has_quantity(row, hypothesis.quantity):
            known.setdefault(key, row)
    if not known:
        why = (
            f": {column(found[0], 'status')}" if isinstance(found[0], Row) else ", which runs of before did not measure"
        )
        return Missing(f"no {hypothesis.quantity}{why}", len(facets))
    return list(known.values())


def _titles(folder: RunFolder, kind: str, selection: Selection) -> Iterator[str]:
    for setting in selection.components[kind]:
        name, fields = setting
        found = protocol.titles(folder, f"{kind}s", setting)
        # Named all the same, so that what is missing can be told.
        given = ", ".join(f"{field} {value}" for field, value in fields.items())
        yield from found or ((f"{name} with {given}" if fields else name),)


def _agreeing(hypothesis: Hypothesis) -> list[str]:
    """Columns in which a row and its baseline agree."""
    if hypothesis.quantity in _ANALYSES:
        return [*_ANALYSES[hypothesis.quantity].agreeing]
    known: Mapping[str, tuple[str, ...]] = _NETWORK if hypothesis.quantity == "clean_accuracy" else _NETWORK | _PATCH
    varied = {name for facet in hypothesis.vary for name in (_NETWORK | _PATCH)[facet]}
    return list(dict.fromkeys(name for names in known.values() for name in names if name not in varied))


def _grouped(rows: Sequence[Record], each: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for row in rows:
        groups[group_of(row, each)].append(row)
    return groups
