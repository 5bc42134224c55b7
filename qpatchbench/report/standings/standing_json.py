"""The standings as JSON with a schema version, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.threats import THREATS
from qpatchbench.runs.reading import MEGABYTE, read_whole

STANDINGS_SCHEMA = 1
MOST_BYTES = 50 * MEGABYTE
_RATE = tuple(each.name for each in fields(ThreatRate) if each.name != "images")
_ROW = tuple(each.name for each in fields(Standing) if each.name != "rates")


def as_json(rows: Sequence[Standing]) -> str:
    """All rows and rates; what is not a number is null."""
    threats = {name: {"title": threat.title, "meaning": threat.meaning} for name, threat in THREATS.items()}
    whole = {"schema_version": STANDINGS_SCHEMA, "threats": threats, "rows": [record(each) for each in rows]}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def record(each: Standing) -> dict[str, Any]:
    """One row."""
    return {
        **{name: getattr(each, name) for name in _ROW},
        "rates": {threat: {name: _plain(getattr(rate, name)) for name in _RATE} for threat, rate in each.rates.items()},
    }


def read_standings(path: Path) -> tuple[Standing, ...]:
    """Standings that `as_json` wrote; without images of single outcomes.

    Raises:
        ArtifactError: the file holds something else, or another schema version.
    """
    try:
        found = json.loads(read_whole(path, MOST_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected JSON: {error}") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != STANDINGS_SCHEMA:
        raise ArtifactError(f"{path}: expected standings of schema version {STANDINGS_SCHEMA}, found {version}")
    try:
        return tuple(_standing(row) for row in found["rows"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not the standings of a leaderboard: {error!r}") from None


def _standing(row: Mapping[str, Any]) -> Standing:
    rates = {threat: _rate(rate) for threat, rate in row["rates"].items() if threat in THREATS}
    return Standing(**{**{name: row[name] for name in _ROW}, "runs": tuple(row["runs"])}, rates=rates)


def _rate(rate: Mapping[str, Any]) -> ThreatRate:
    numbers = {name: math.nan if rate[name] is None else float(rate[name]) for name in ("value", "low", "high")}
    return ThreatRate(**{**{name: rate[name] for name in _RATE}, **numbers})


def _plain(value: object) -> object:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
