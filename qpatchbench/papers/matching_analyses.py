"""Published costs and similarities among the analyses of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qpatchbench.papers import protocol
from qpatchbench.papers.matching import Facet, Measured, Missing, Rows, SearchedRun
from qpatchbench.papers.printed.values import PublishedValue
from qpatchbench.papers.vocabulary import DATASETS, METRICS, MODELS, defenses
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import base_name

_NORMAL = 1.959964  # standard errors of a 95 % interval


class _Unit(NamedTuple):
    """A column of costs.parquet, what turns it into the published unit, and its bounds from the timed quartiles."""

    column: str
    factor: float
    timed: bool


COSTS: Mapping[str, _Unit] = {
    "images_per_s": _Unit("images_per_second", 1, timed=True),
    "iter_ms": _Unit("step_seconds", 1000, timed=True),
    "peak_mem_gb": _Unit("peak_bytes", 1e-9, timed=False),
    "time_x": _Unit("relative_time", 1, timed=True),
    "mem_x": _Unit("relative_memory", 1, timed=False),
}
SIMILARITIES = ("cosine", "edge_iou", "hog_cosine", "softdice", "softhog")
GRADIENT = "input gradient"


def find_cost(source: SearchedRun, value: PublishedValue) -> Measured | Missing:
    """The cost of a training step."""
    folder = source.folder
    found = _of_dataset(folder, value.dataset, folder.whole_costs, "costs")
    if isinstance(found, Missing):
        return found
    named = [title for each in defenses(value, "") for title in protocol.titles(folder, "defenses", each)]
    facets = [Facet("model", source.models(value, value.dataset)), Facet("defense", tuple(named) or (value.defense,))]
    rows = Rows(found).matching(facets)
    if isinstance(rows, Missing):
        return rows
    row, unit = rows[0], COSTS[value.metric]
    number = unit.factor * row[unit.column]
    low, high = _bounds(row, value.metric) if unit.timed else (math.nan, math.nan)
    if value.metric == "mem_x" and row["defense"] == row["reference"]:
        low = high = number  # by definition
    told = [*protocol.of_costs(folder, row)]
    if row["model"] not in MODELS.get(value.model, (value.model,)):
        told.append(protocol.other_architecture(row["model"], value.model))
    described = f"{row['model']}, {row['defense']}, bits {row['bits']}"
    return Measured(number, low, high, 1, folder.name, described, tuple(told))


def find_similarity(folder: RunFolder, table: str, value: PublishedValue) -> Measured | Missing:
    """The similarity of two bit-widths, of input gradients or at an early layer, of whatever network a run has."""
    found = _of_dataset(folder, value.dataset, folder.similarity, "similarities")
    if isinstance(found, Missing):
        return found
    layers = [layer for layer in dict.fromkeys(row["layer"] for row in found) if layer != GRADIENT]
    layer = GRADIENT
    if value.param == "layer":
        # The papers' L0, L1, L2 are taken for the first, second and third of the early layers that a run compares.
        place = int(value.param_value.partition(".")[0].removeprefix("L"))
        if place >= len(layers):
            return Missing(f"no early layer number {place + 1}; there: {', '.join(layers) or 'none'}", 1)
        layer = layers[place]
    named = [title for each in defenses(value, "") for title in protocol.titles(folder, "defenses", each)]
    facets = [
        Facet("model", ("resnet*", "*"), assumed=True),
        Facet("defense", tuple(named) or ("qat",), assumed=True),
        Facet("quantization", ("qat", "ptq*"), assumed=True),
        Facet("images", ("clean", "patched"), assumed=True),
        Facet("layer", (layer,)),
        Facet("first_bits", (value.source_bits,)),
        Facet("second_bits", (value.target_bits,)),
        Facet("metric", (METRICS.get(value.metric, value.metric),)),
    ]
    rows = Rows(found).matching(facets)
    if isinstance(rows, Missing):
        return rows
    row = rows[0]
    error = row["standard_error"]
    half = math.nan if error is None else _NORMAL * error
    told = ["network, layer and images are not stated"]
    guess = DATASETS.get(table, "")
    if not value.dataset and base_name(folder.dataset) != guess:
        told.append(f"dataset: {base_name(folder.dataset)} instead of {guess}, which is assumed")
    if "(" in folder.dataset:
        told.append(f"images: {folder.dataset}")
    described = f"{row['model']}, {row['defense']}, {row['quantization']}, {row['images']} images, {row['layer']}"
    return Measured(
        row["value"], row["value"] - half, row["value"] + half, row["n_images"], folder.name, described, tuple(told)
    )


def _of_dataset(
    folder: RunFolder, dataset: str, rows: Sequence[Mapping[str, Any]], what: str
) -> Sequence[Mapping[str, Any]] | Missing:
    if not rows:
        return Missing(f"the run has no {what}", -1)
    own = base_name(folder.dataset)
    return rows if dataset in ("", own) else Missing(f"no {what} with dataset {dataset}; there: {own or 'unknown'}")


def _bounds(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """From the quartiles of the timed rounds."""
    if metric == "time_x":
        # Runs of before have no quartiles of ratios.
        return row.get("relative_time_low", math.nan), row.get("relative_time_high", math.nan)
    low, high = row["step_seconds_low"], row["step_seconds_high"]
    if metric == "iter_ms":
        return 1000 * low, 1000 * high
    images = row["images_per_second"] * row["step_seconds"]
    return images / high, images / low
