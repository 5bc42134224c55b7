"""The parts of a suite, as its author typed them, that a row comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from qpatchbench.runs.records import CellRecord

_WHOLE = ("dataset", "training", "finetuning", "transfer", "sweep", "evaluation", "seeds", "limit")


def suite_lines(manifest: Mapping[str, Any], cells: Sequence[CellRecord]) -> Iterator[str]:
    """One line per part: where it stands in the suite, and what was typed there; defaults are not shown."""
    typed = manifest.get("typed")
    if not isinstance(typed, dict) or not cells:
        return
    cell = cells[0]
    yield from ("", f"Suite {manifest.get('suite')}, as typed")
    yield from _those("models", typed.get("models"), {cell.model, *cell.source_model.split("+")})
    yield from _those("defenses", typed.get("defenses"), {cell.defense, *cell.source_defense.split("+")})
    yield from _those("preprocessors", typed.get("preprocessors"), {cell.preprocessor, cell.source_preprocessor})
    yield from _quantizers(typed.get("quantizers"), {cell.target_bits, cell.source_bits})
    yield from _those("attacks", typed.get("attacks"), {cell.attack})
    pool = typed.get("pool")
    if cell.seen and isinstance(pool, dict):
        yield from _those(f"pool.{cell.seen}", pool.get(cell.seen), {cell.attack})
    yield from (f"  {name}: {_flow(typed[name])}" for name in _WHOLE if typed.get(name) not in (None, {}, []))


def _those(section: str, items: object, titles: set[str]) -> Iterator[str]:
    """Components of a list that results call by one of `titles`."""
    for place, item in enumerate(items if isinstance(items, list) else []):
        title = item.get("label") or item.get("name") if isinstance(item, dict) else item
        if title in titles:
            yield f"  {section}[{place}]: {_flow(item)}"


def _quantizers(items: object, bits: set[str]) -> Iterator[str]:
    """Quantizers that deploy one of the bits: their names in results follow from several fields."""
    for place, item in enumerate(items if isinstance(items, list) else []):
        given = item.get("bits") if isinstance(item, dict) else None
        listed = given if isinstance(given, list) else [given]
        if {str(each) for each in listed} & bits:
            yield f"  quantizers[{place}]: {_flow(item)}"


def _flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("\n...\n").strip()
