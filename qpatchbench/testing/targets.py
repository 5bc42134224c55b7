"""The components that `qpatchbench plugin check TARGET` means."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from qpatchbench.component import Component
from qpatchbench.errors import PluginError, UnknownNameError, suggestion
from qpatchbench.importing import imported, imported_file
from qpatchbench.registry import BUILT_IN, REGISTRIES, Entry, load_plugin
from qpatchbench.testing.require import kind_of

OURS = "qpatchbench"


class Target(NamedTuple):
    """A component to check: its kind in the singular, its name and its class."""

    kind: str
    name: str
    component: type[Any]


def targets_of(text: str) -> tuple[Target, ...]:
    """The components of a plugin, by kind and name.

    Args:
        text: an installed distribution, a module or a .py file, of which one component may be named: "my_plugin:gap".
            A module or file says what it holds in CATALOGUES; where it has none, all its component classes are meant.
            `qpatchbench` is the built-ins.

    Raises:
        PluginError: there is no such plugin, it cannot be imported, or it holds no component.
        UnknownNameError: it has no component of that name.
    """
    place, colon, name = text.partition(":")
    found = sorted(_registered(place) or _imported(place), key=lambda target: (target.kind, target.name))
    if not found:
        raise PluginError(
            f"{place}: expected components, in CATALOGUES = {{kind: {{name: Entry(..)}}}}, in entry points or as "
            "classes derived from Attack, Defense, ..; found none"
        )
    chosen = tuple(target for target in found if not colon or target.name == name)
    if not chosen:
        raise UnknownNameError(f"component of {place}", name, sorted({target.name for target in found}))
    return chosen


def _registered(place: str) -> tuple[Target, ...]:
    """Components of an installed distribution, of one of its modules, or the built-ins."""

    def meant(entry: Entry) -> bool:
        if entry.plugin == BUILT_IN and place == OURS:
            return True
        module = entry.target.partition(":")[0]
        return _plain(entry.plugin) == _plain(place) or f"{module}.".startswith(f"{place}.")

    return tuple(_entries(meant))


def _entries(meant: Any) -> Iterator[Target]:  # noqa: ANN401 (Entry -> bool)
    for registry in REGISTRIES.values():
        for name, entry in registry.entries.items():
            # A family such as timm/<name> has no one component.
            if "<" not in name and meant(entry):
                yield Target(registry.kind, name.removeprefix(f"{entry.plugin}:"), registry.get(name))


def _imported(place: str) -> tuple[Target, ...]:
    """Components of a module or file that is not installed as a plugin."""
    path, who = Path(place), f"plugin {place} cannot be imported"
    if path.suffix == ".py":
        module = imported_file(path, who)
    else:
        _require_findable(place)
        module = imported(place, who)
    if hasattr(module, "CATALOGUES"):
        load_plugin(place)
        return tuple(_entries(lambda entry: entry.plugin == module.__name__))
    return tuple(_classes(vars(module), module.__name__))


def _classes(content: Mapping[str, Any], module: str) -> Iterator[Target]:
    """Complete component classes that a module defines."""
    for name, value in content.items():
        own = isinstance(value, type) and issubclass(value, Component) and value.__module__ == module
        if own and not name.startswith("_") and not inspect.isabstract(value):
            default = value.model_fields["name"].default
            yield Target(kind_of(value), default if isinstance(default, str) else _snake_case(name), value)


def _require_findable(place: str) -> None:
    try:
        known = place in sys.modules or find_spec(place) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise PluginError(
            f"no plugin, module or .py file {place!r}.{suggestion(place, sorted({OURS, *_plugins()}))} Is the package "
            "installed (pip install --editable .)?"
        )


def _plugins() -> Iterable[str]:
    entries = (entry for registry in REGISTRIES.values() for entry in registry.entries.values())
    return {entry.plugin for entry in entries if entry.plugin != BUILT_IN}


def _plain(name: str) -> str:
    """Distribution names are compared without case, and with - for _ and '.' (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _snake_case(name: str) -> str:
    """my_attack of MyAttack."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
