"""Differences between the manifests of two runs: suite, versions, revision, device, images, plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ABSENT, PRESENT = "absent", "present"
# Lists of what a run made, and the suite as typed: its resolved form says the same, with defaults.
_RESULTS = frozenset({"jobs", "networks", "checkpoints", "patches", "files", "plan", "typed"})


class Differing(NamedTuple):
    """One field of a manifest, as text; ABSENT where a run has no such field or no such component."""

    field: str
    a: str
    b: str


def manifest_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Differing, ...]:
    """Fields that differ, in the order in which the manifests have them.

    Components of a suite are told apart by their label or name, so that one more attack is one difference.

    >>> manifest_differences({"resolved": {"training": {"epochs": 5}}}, {"resolved": {"training": {"epochs": 9}}})
    (Differing(field='suite.training.epochs', a='5', b='9'),)
    """
    ours, theirs = (dict(_flat(_shown(manifest), "")) for manifest in (a, b))
    names = [*ours, *(name for name in theirs if name not in ours)]
    here, there = ({_component(name) for name in side} for side in (ours, theirs))
    found = []
    for name in names:
        component = _component(name)
        if component and (component in here) != (component in there):
            found.append(Differing(component, *((PRESENT, ABSENT) if component in here else (ABSENT, PRESENT))))
        else:
            found.append(Differing(name, ours.get(name, ABSENT), theirs.get(name, ABSENT)))
    return tuple(dict.fromkeys(each for each in found if each.a != each.b))


def _component(field: str) -> str:
    """The component of a list that a field belongs to: "suite.attacks[gap].size" -> "suite.attacks[gap]"."""
    head, bracket, _ = field.partition("]")
    return head + bracket if bracket else ""


def _shown(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in manifest.items() if name not in {*_RESULTS, "suite", "resolved"}}
    return {"suite": manifest.get("resolved") or {}, **kept}


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for name, item in zip(_names(value), value, strict=True):
            yield from _flat(item, f"{path}[{name}]")
    elif value in (None, [], {}):
        return  # what is left out and what is empty are the same choice
    elif isinstance(value, list):
        yield path, " ".join(map(str, value))
    else:
        yield path, str(value)


def _names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels or names of a list's items; a name that occurs again is numbered."""
    names: list[str] = []
    for place, item in enumerate(items):
        name = str(item.get("label") or item.get("name") or place)
        again = sum(known.partition(" #")[0] == name for known in names)
        names.append(f"{name} #{again + 1}" if again else name)
    return names
