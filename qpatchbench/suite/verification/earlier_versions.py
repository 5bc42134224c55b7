"""Components of a run that have changed since: its labels are those of the versions that made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qpatchbench.component import Component
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.suite.file.schema import Suite


def earlier_versions(suite: Suite, manifest: Mapping[str, Any]) -> dict[str, int]:
    """Class -> the one version below today's that the manifest names it by; of what nobody computes again.

    These are defenses and attacks: their work is stored, as checkpoints and patches. What verification does once more
    (deploying, preprocessing, predicting) is done by today's code, whose version has to be that of the run.

    Args:
        suite: of the run, or the one that it is held against.
        manifest: of the run.
    """
    pool = () if suite.pool is None else (*suite.pool.seen, *suite.pool.unseen)
    today = {_class_of(each): each.version for each in (*suite.defenses, *suite.attacks, *pool)}
    named: dict[str, set[int | None]] = {}
    for entries, field in (("checkpoints", "defense"), ("patches", "attack")):
        for entry in manifest.get(entries, ()):
            for name, version in _versions_in(entry.get(field)):
                named.setdefault(name, set()).add(version if type(version) is int else None)
    found = {}
    for name, version in today.items():
        told = named.get(name, set())
        earlier = next(iter(told)) if len(told) == 1 else None
        if earlier is not None and 1 <= earlier < version:
            found[name] = earlier
    return found


def version_claims(earlier: Mapping[str, int]) -> Iterator[str]:
    """What the work of earlier versions means: nobody can tell any more that it was theirs."""
    for name, version in sorted(earlier.items()):
        what = name.rpartition(":")[2]
        yield Unchecked(f"that version {version} of {what} made what the run has of it: it has changed since")


def _class_of(component: Component) -> str:
    return str(component.identity()["class"])


def _versions_in(value: object) -> Iterator[tuple[str, object]]:
    """Classes and versions in an identity, with those of the components inside it."""
    if isinstance(value, Mapping):
        if "class" in value and "version" in value:
            yield str(value["class"]), value["version"]
        for inner in value.values():
            yield from _versions_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _versions_in(inner)
