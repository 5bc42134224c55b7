"""Lazy registries: a name maps to one catalogue line, and its class is imported only when it is used.

Built-in components stand in the literal `CATALOGUE` of their package; components of other
distributions are found by entry points of the same group name, for example `qpatchbench.attacks`,
and those of a module or file that is not installed by `load_plugin`.
Nothing here imports torch, pydantic or a component module until `Registry.get` is called.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from qpatchbench.errors import PluginError, UnknownNameError, suggestion
from qpatchbench.importing import component_class, imported, imported_file, place_of, require_complete
from qpatchbench.labels import EXPECTED, is_label, is_printable

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Entry:
    """One catalogue line.

    Attributes:
        target: "module:Class" of the component.
        summary: one sentence for `qpatchbench list`; "" for an entry point, whose class says it.
        reference: paper, or "" where there is none.
        plugin: distribution or module the component comes from.
        version: of the distribution, or `__version__` of the module; "" for built-ins and where there is none.
    """

    target: str
    summary: str
    reference: str = ""
    plugin: str = BUILT_IN
    version: str = ""


@dataclass(frozen=True)
class Registry:
    """All components of one kind, by name.

    A name in use is never replaced silently: where a plugin's name is that of a built-in, or of another plugin, the
    plugin's component is listed as "plugin:name". That longer name always works, so that a suite that uses it means
    the same whatever else is installed.

    Attributes:
        kind: singular word used in messages, for example "attack".
        package: module that holds `CATALOGUE`; also the entry point group.
        base: "module:Class" that every component of this kind inherits from.
    """

    kind: str
    package: str
    base: str = "qpatchbench.component:Component"

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Catalogue lines of the built-ins and of every plugin, sorted by name."""
        found: dict[str, Entry] = dict(importlib.import_module(self.package).CATALOGUE)
        claims = Counter(name for name, _ in self.outside)
        taken = set(found)
        for name, entry in self.outside:
            found[f"{entry.plugin}:{name}" if name in taken or claims[name] > 1 else name] = entry
        return dict(sorted(found.items()))

    @cached_property
    def outside(self) -> tuple[tuple[str, Entry], ...]:
        """What plugins register, each with the name that it asks for."""
        return tuple(dict.fromkeys(_installed(self.package)))

    def add(self, name: str, entry: Entry) -> None:
        """Add a catalogue line for the life of this process; one that is there already is left as it is."""
        if all((name, entry.target) != (known, other.target) for known, other in self.outside):
            self.__dict__["outside"] = (*self.outside, (name, entry))
            self.__dict__.pop("entries", None)

    def entry(self, name: str) -> Entry:
        """Return the catalogue line of `name`; a name such as "timm/resnet18" is answered by "timm/<name>".

        Raises:
            UnknownNameError: no such component.
            PluginError: several plugins have one of this name.
        """
        longer = {f"{entry.plugin}:{own}": entry for own, entry in self.outside}
        for known in (self.entries, longer):
            family, slash, _ = name.partition("/")
            found = known.get(name) or (known.get(f"{family}/<name>") if slash else None)
            if found is not None:
                return found
        rivals = [f"{entry.plugin}:{own}" for own, entry in self.outside if own == name]
        if rivals:
            raise PluginError(
                f"{self.kind} {name!r} is in several plugins: expected one of {', '.join(sorted(rivals))}"
            )
        raise UnknownNameError(self.kind, name, self.entries)

    def get(self, name: str) -> type[Any]:
        """Import and return the class registered as `name`.

        Raises:
            UnknownNameError: no such component.
            PluginError: its module cannot be imported, or has no such class; or the class is no complete component
                of this kind.
        """
        entry = self.entry(name)
        who = f"{self.kind} {name!r} of {entry.plugin}"
        found = component_class(entry.target, who)
        if entry.plugin != BUILT_IN:  # tests hold the built-ins to it
            self._require_kind(found, who)
            require_complete(found, who)
        return found

    def holds(self, component: type[Any]) -> bool:
        """Whether a class is a component of this kind."""
        module, _, name = self.base.partition(":")
        return issubclass(component, getattr(importlib.import_module(module), name))

    def _require_kind(self, component: type[Any], who: str) -> None:
        if self.holds(component):
            return
        other = next((registry for registry in REGISTRIES.values() if registry.holds(component)), None)
        found = f"{component.__name__} ({place_of(component)}), which is no component"
        if other is not None:
            found = f"the {other.kind} {component.__name__} ({place_of(component)}), which belongs to {other.package}"
        raise PluginError(f"{who}: expected a class that inherits from {self.base.replace(':', '.')}, found {found}")


def _installed(group: str) -> Iterator[tuple[str, Entry]]:
    """Components that installed distributions name in their entry points."""
    for point in entry_points(group=group):
        plugin, version = (point.dist.name, point.dist.version) if point.dist is not None else ("unknown", "")
        entry = Entry(point.value.partition("[")[0].strip(), "", plugin=plugin, version=version)
        _expect_shown(point.name, entry, f"plugin {ascii(plugin)}")
        yield point.name, entry


def _expect_shown(name: str, entry: Entry, who: str) -> None:
    """Check what lists and results show of a plugin.

    Raises:
        PluginError: its name, its version or that of a component could be taken for something else there.
    """
    shown = {"name of a component": name.removesuffix("/<name>"), "name": entry.plugin, "version": entry.version or "0"}
    for what, text in shown.items():
        if not is_label(text):
            raise PluginError(f"{who}: expected as {what} {EXPECTED}, found {ascii(text)}")
    for text in (entry.summary, entry.reference):
        if not is_printable(text):
            raise PluginError(f"{who}: {name}: expected a printable line about it, found {ascii(text)}")


ATTACKS = Registry("attack", "qpatchbench.attacks", "qpatchbench.attacks.base:Attack")
DEFENSES = Registry("defense", "qpatchbench.defenses", "qpatchbench.defenses.base:Defense")
QUANTIZERS = Registry("quantizer", "qpatchbench.quantizers", "qpatchbench.quantizers.base:Quantizer")
PREPROCESSORS = Registry("preprocessor", "qpatchbench.preprocessors", "qpatchbench.preprocessors.base:Preprocessor")
MODELS = Registry("model", "qpatchbench.models", "qpatchbench.models.base:ModelSource")
DATASETS = Registry("dataset", "qpatchbench.data", "qpatchbench.data.base:DatasetSource")

REGISTRIES: Mapping[str, Registry] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "quantizers": QUANTIZERS,
    "preprocessors": PREPROCESSORS,
    "models": MODELS,
    "datasets": DATASETS,
}


LOADED: dict[str, None] = {}  # what `load_plugin` was given, in order


def load_plugin(target: str) -> None:
    """Register the components of a module that is no installed plugin.

    Args:
        target: a module name, or the path of a .py file. The module has a dict
            CATALOGUES = {"attacks": {"my_attack": Entry("module:Class", "what it does")}, ...}.

    Raises:
        PluginError: it cannot be imported (says file and line), or has no such dict.
    """
    module = _loaded(target)
    catalogues = getattr(module, "CATALOGUES", None)
    if not isinstance(catalogues, dict):
        raise PluginError(f"plugin {target}: expected a dict CATALOGUES of kind -> name -> Entry, found none")
    version = str(getattr(module, "__version__", ""))
    for kind, entries in catalogues.items():
        if kind not in REGISTRIES:
            raise PluginError(
                f"plugin {target}: unknown kind {kind!r} in CATALOGUES.{suggestion(str(kind), REGISTRIES)}"
            )
        for name, entry in _checked(entries, kind, target):
            listed = replace(entry, plugin=module.__name__, version=version)
            _expect_shown(name, listed, f"plugin {target}")
            REGISTRIES[kind].add(name, listed)
    LOADED[str(Path(target).resolve()) if target.endswith(".py") else target] = None


def loaded_plugins() -> tuple[str, ...]:
    """What `load_plugin` was given so far, in order; files as absolute paths. Another process can load the same."""
    return tuple(LOADED)


def _loaded(target: str) -> Any:  # noqa: ANN401 (a module, whose attributes are its own)
    who = f"plugin {target} cannot be imported"
    path = Path(target)
    if path.suffix == ".py":
        return imported_file(path, who)
    if os.sep in target or target.startswith("."):
        raise PluginError(f"{who}: expected the name of a module, or the path of a file that ends in .py")
    return imported(target, who)


def _checked(entries: object, kind: object, target: str) -> Iterator[tuple[str, Entry]]:
    if not isinstance(entries, dict):
        raise PluginError(
            f"plugin {target}: expected a dict of name -> Entry as CATALOGUES[{kind!r}], found {type(entries).__name__}"
        )
    for name, entry in entries.items():
        if not isinstance(entry, Entry):
            raise PluginError(
                f'plugin {target}: expected Entry("module:Class", "what it does") as CATALOGUES[{kind!r}][{name!r}], '
                f"found {type(entry).__name__} {entry!r}"
            )
        yield str(name), entry
