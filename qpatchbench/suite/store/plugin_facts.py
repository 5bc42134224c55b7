"""Components from outside in a suite, or in one of its jobs, and what identifies their code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pydantic import BaseModel

from qpatchbench.component import Component
from qpatchbench.errors import QPatchBenchError
from qpatchbench.origin import is_outside, source_hash
from qpatchbench.registry import REGISTRIES, Entry


def plugins_of(value: object) -> list[dict[str, str]]:
    """One row per class from outside that a suite or a job holds, however deep; sorted.

    Each has `component` (kind and name), `class`, `package`, `version` of the package, and `sha256` of the source. A
    class that no registry lists under its component's name goes by its top-level module, without a version. What
    nothing identifies has no `sha256`. A built-in that runs a source file named in the suite has that file as package.
    """
    components = [*_components(value, set())]
    rows = {_row(component) for component in components if is_outside(type(component))}
    rows |= {_own_row(component) for component in components if component.runs_code}
    return [dict(row) for row in sorted(rows)]


def plugins_text(value: object) -> str:
    """The same in one line, for a record; "" where everything is built in."""
    return "; ".join(
        f"{row['component']}, {' '.join(filter(None, (row['package'], row['version'])))}, "
        + (f"sha256:{row['sha256']}" if row["sha256"] else "not identified, so not cached")
        for row in plugins_of(value)
    )


def unidentified(value: object) -> tuple[str, ...]:
    """One line per component of a suite or a job that nothing identifies, with the reason."""
    found = [component for component in _components(value, set()) if component.unidentified]
    return tuple(dict.fromkeys(f"{_entry(each)[0]} {each.name}: {each.unidentified}" for each in found))


def _components(value: object, seen: set[int]) -> Iterator[Component]:
    """Components inside a model, a job, or tuples, lists and dicts of them; each object is entered once."""
    if isinstance(value, str | int | float | None) or id(value) in seen:
        return
    if isinstance(value, BaseModel):
        if isinstance(value, Component):
            yield value
        inner: list[object] = [getattr(value, name) for name in type(value).model_fields]
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, tuple | list):
        inner = list(value)
    else:
        return
    seen.add(id(value))
    for item in inner:
        yield from _components(item, seen)


def _row(component: Component) -> tuple[tuple[str, str], ...]:
    cls = type(component)
    kind, entry = _entry(component)
    return (
        ("component", f"{kind} {component.name}"),
        ("class", f"{cls.__module__}:{cls.__qualname__}"),
        ("package", entry.plugin),
        ("version", entry.version),
        ("sha256", "" if component.unidentified else source_hash(cls)),
    )


def _own_row(component: Component) -> tuple[tuple[str, str], ...]:
    cls, (file, sha256) = type(component), component.code_beside
    return (
        ("component", f"{_entry(component)[0]} {component.title}"),
        ("class", f"{cls.__module__}:{cls.__qualname__}"),
        ("package", file),
        ("version", ""),
        ("sha256", sha256),
    )


def _entry(component: Component) -> tuple[str, Entry]:
    unlisted = Entry("", "", plugin=type(component).__module__.partition(".")[0])
    for registry in REGISTRIES.values():
        if registry.holds(type(component)):
            try:
                entry = registry.entry(component.name)
                return registry.kind, entry if registry.get(component.name) is type(component) else unlisted
            except QPatchBenchError:
                return registry.kind, unlisted
    return "component", unlisted
