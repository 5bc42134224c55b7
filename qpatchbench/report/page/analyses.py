"""What a run measured beside patches: costs of training and similarity of bit-widths, as tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from qpatchbench.report.page.tables import csv, markdown_table
from qpatchbench.runs.files import write_atomically

COSTS = "costs"
SIMILARITY = "similarity"


def write_analyses(run_dir: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write costs.csv and .md, similarity.csv and .md: those whose data the run folder holds.

    Args:
        run_dir: a run's folder, where the files go too.
        formats: csv and md are written; others have no table of this kind.

    Raises:
        StorageError: the folder cannot be written.
    """
    written = []
    for name, readable in ((COSTS, costs_table), (SIMILARITY, similarity_table)):
        source = run_dir / f"{name}.parquet"
        if not source.is_file():
            continue
        frame = pd.read_parquet(source)
        texts: dict[str, Callable[[pd.DataFrame], str]] = {"csv": csv, "md": readable}
        written += [
            write_atomically(run_dir / f"{name}.{ending}", text(frame).encode())
            for ending, text in texts.items()
            if ending in formats
        ]
    return written


def costs_table(frame: pd.DataFrame) -> str:
    """Time and memory of a training step of every defense, relative to the reference."""
    rows = [
        [
            row["model"],
            row["defense"],
            row["bits"],
            f"{1000 * row['step_seconds']:.0f}",
            f"{row['images_per_second']:.0f}",
            f"{row['relative_time']:.2f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['relative_memory']:.2f}",
        ]
        for row in frame.to_dict("records")
    ]
    reference = ", ".join(sorted(set(frame["reference"])))
    names = ("model", "defense", "bits", "step [ms]", "images/s", "time", "memory [MiB]", "memory")
    return "\n".join(
        [
            "# Costs of training",
            "",
            f"One optimiser step, measured in turn on one machine; time and memory are relative to {reference}.",
            "A defense that trains one network per bit-width is measured on one of them; a curriculum at its end.",
            "",
            markdown_table(names, rows, right=frozenset(names[3:])),
            "",
        ]
    )


def similarity_table(frame: pd.DataFrame) -> str:
    """Mean over all pairs of bit-widths; every pair is in similarity.csv."""
    keys = ["model", "defense", "quantization", "images", "layer", "metric"]
    means = frame.groupby(keys, sort=True)[["value", "chance", "corrected"]].mean().reset_index()
    rows = [
        [*(str(row[name]) for name in keys), *(_figure(row[name]) for name in ("value", "chance", "corrected"))]
        for row in means.to_dict("records")
    ]
    names = (*keys, "similarity", "chance", "above chance")
    return "\n".join(
        [
            "# Similarity between bit-widths",
            "",
            "Mean over all pairs of bit-widths. Chance is what independent noise scores, and above chance is "
            "(similarity - chance) / (1 - chance).",
            "",
            markdown_table(names, rows, right=frozenset(names[6:])),
            "",
        ]
    )


def _figure(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"
