"""Tables of what a run measured beside patches: costs of training, similarity and gradients between bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from qpatchbench.report.leaderboard.row import stated
from qpatchbench.report.page.grid import Grid
from qpatchbench.runs.parquet_tables import read_rows

COSTS = "costs"
SIMILARITY = "similarity"
GRADIENTS = "gradients"
Records: TypeAlias = Sequence[Mapping[str, Any]]
_MEANS = ("value", "chance", "corrected")


def analysis_texts(run_dir: Path, formats: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of costs.csv and .md, similarity and gradients: those whose data the run folder holds.

    Args:
        run_dir: a run's folder.
        formats: csv and md are made; others have no table of this kind.

    Raises:
        ArtifactError: the data are damaged.
    """
    for name, readable in ((COSTS, costs_table), (SIMILARITY, similarity_table), (GRADIENTS, gradients_table)):
        source = run_dir / f"{name}.parquet"
        if not source.is_file():
            continue
        records = read_rows(source)
        names = list(records[0]) if records else []
        if "csv" in formats:
            grid = Grid(names, [[stated(row[column]) for column in names] for row in records])
            yield f"{name}.csv", grid.csv()
        if "md" in formats:
            yield f"{name}.md", readable(records)


def costs_table(rows: Records) -> str:
    """Time and memory of a training step of every defense, and time of an inference, relative to the reference."""
    names = ("model", "defense", "bits", "step [ms]", "images/s", "time", "memory [MiB]", "memory", "inference")
    cells = [
        [
            *(row["model"], row["defense"], row["bits"]),
            f"{1000 * row['step_seconds']:.0f}",
            f"{row['images_per_second']:.0f}",
            f"{row['relative_time']:.2f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['relative_memory']:.2f}",
            _times(row.get("relative_inference")),
        ]
        for row in rows
    ]
    reference = ", ".join(sorted({row["reference"] for row in rows}))
    return "\n".join(
        [
            "# Costs of training",
            "",
            f"One optimiser step, measured in turn on one machine; time and memory are relative to {reference}.",
            "A defense that trains one network per bit-width is measured on one of them; a curriculum at its end.",
            "An inference is that of the deployed network, relative to the reference's at the same bits.",
            "",
            Grid(names, cells, names[3:]).markdown(),
            "",
        ]
    )


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def similarity_table(rows: Records) -> str:
    """Mean over all pairs of bit-widths; every pair is in similarity.csv."""
    keys = ("model", "defense", "quantization", "images", "layer", "metric")
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in keys)].append(row)
    cells = [[*key, *(_mean(groups[key], name) for name in _MEANS)] for key in sorted(groups)]
    names = (*keys, "similarity", "chance", "above chance")
    return "\n".join(
        [
            "# Similarity between bit-widths",
            "",
            "Mean over all pairs of bit-widths. Chance is what independent noise scores, and above chance is "
            "(similarity - chance) / (1 - chance).",
            "",
            Grid(names, cells, names[6:]).markdown(),
            "",
        ]
    )


def gradients_table(rows: Records) -> str:
    """How well the input gradients at fewer bits agree with those at the most, by what the images went through."""
    keys = ("model", "defense", "quantization", "seed", "bits", "reference_bits", "images")
    known = {(*(row[name] for name in keys), row["metric"]): row for row in rows}
    cells = [
        [*map(str, key), *(_with_error(known.get((*key, metric))) for metric in ("cosine", "mse"))]
        for key in dict.fromkeys(found[:-1] for found in known)
    ]
    names = ("model", "defense", "quantization", "seed", "bits", "against", "images", "cosine", "mean squared error")
    return "\n".join(
        [
            "# Input gradients between bit-widths",
            "",
            "Mean over images, and its standard error, of the cosine and the mean squared error of the gradients of "
            "cross-entropy to the image. Images are clean, with a patch, or perturbed by PGD on the widest network.",
            "",
            Grid(names, cells, names[7:]).markdown(),
            "",
        ]
    )


def _with_error(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    error = row["standard_error"]
    return f"{row['value']:.3g}" if error is None else f"{row['value']:.3g} ± {error:.2g}"


def _mean(rows: Records, name: str) -> str:
    """Of what is known; empty where nothing is."""
    known = [row[name] for row in rows if row[name] is not None and row[name] == row[name]]
    return f"{fmean(known):.3f}" if known else ""
