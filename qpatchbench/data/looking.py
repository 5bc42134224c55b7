"""The search for a dataset, and what to say when it is not there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qpatchbench.errors import DataError


class DatasetAbsent(DataError):
    """A dataset that is in none of the places where it was looked for."""


def search_roots(data_dir: Path, name: str) -> list[Path]:
    """`data_dir`, `data_dir/<name>` and every `data_dir/<name>-*`, in this order."""
    return [data_dir, data_dir / name, *sorted(path for path in data_dir.glob(f"{name}-*") if path.is_dir())]


def not_found(name: str, tried: Iterable[Path | str], layout: str, also: str = "") -> DatasetAbsent:
    """The error for a dataset that is not there.

    Args:
        name: of the dataset.
        tried: every place that was looked at.
        layout: what was expected there.
        also: another way to get it.
    """
    places = "\n".join(f"  {path}" for path in tried)
    return DatasetAbsent(
        f"{name}: the dataset is not there. Looked for:\n{places}\n"
        f"Expected: {layout}.\n"
        f"Say where datasets lie with --data-dir or the environment variable QPATCHBENCH_DATA{also}."
    )
