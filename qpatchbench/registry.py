"""Lazy registries: a name maps to one catalogue line, and its class is imported only when it is used.

Built-in components stand in the literal `CATALOGUE` of their package; components of other
distributions are found by entry points of the same group name, for example `qpatchbench.attacks`,
and those of a module or file that is not installed by `load_plugin`.
Nothing here imports torch, pydantic or a component module until `Registry.get` is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from qpatchbench.errors import PluginError, UnknownNameError, suggestion

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Entry:
    """One catalogue line.

    Attributes:
        target: "module:Class" of the component.
        summary: one sentence for `qpatchbench list`.
        reference: paper, or "" where there is none.
        plugin: distribution the component comes from.
    """

    target: str
    summary: str
    reference: str = ""
    plugin: str = BUILT_IN


@dataclass(frozen=True)
class Registry:
    """All components of one kind, by name.

    Attributes:
        kind: singular word used in messages, for example "attack".
        package: module that holds `CATALOGUE`; also the entry point group.
    """

    kind: str
    package: str

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Catalogue lines of the built-ins and of every installed plugin, sorted by name."""
        found: dict[str, Entry] = dict(importlib.import_module(self.package).CATALOGUE)
        for point in entry_points(group=self.package):
            plugin = point.dist.name if point.dist is not None else "unknown"
            name = _free_name(point.name, plugin, found)
            found[name] = Entry(point.value, f"from the plugin {plugin}", plugin=plugin)
        return dict(sorted(found.items()))

    def add(self, name: str, entry: Entry) -> None:
        """Add a catalogue line for the life of this process."""
        added = {**self.entries, _free_name(name, entry.plugin, self.entries): entry}
        self.__dict__["entries"] = dict(sorted(added.items()))

    def entry(self, name: str) -> Entry:
        """Return the catalogue line of `name`; a name such as "timm/resnet18" is answered by "timm/<name>"."""
        if name in self.entries:
            return self.entries[name]
        family, slash, _ = name.partition("/")
        if slash and f"{family}/<name>" in self.entries:
            return self.entries[f"{family}/<name>"]
        raise UnknownNameError(self.kind, name, self.entries)

    def get(self, name: str) -> type[Any]:
        """Import and return the class registered as `name`.

        Raises:
            UnknownNameError: no such component.
            PluginError: its module cannot be imported, or has no such class.
        """
        entry = self.entry(name)
        module, _, attribute = entry.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except Exception as error:
            raise PluginError(
                f"{self.kind} {name!r} of {entry.plugin} cannot be imported from {entry.target}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _free_name(name: str, plugin: str, taken: Container[str]) -> str:
    """A name in use is never replaced silently: the plugin's component stays reachable under its namespace."""
    return f"{plugin}:{name}" if name in taken else name


ATTACKS = Registry("attack", "qpatchbench.attacks")
DEFENSES = Registry("defense", "qpatchbench.defenses")
QUANTIZERS = Registry("quantizer", "qpatchbench.quantizers")
PREPROCESSORS = Registry("preprocessor", "qpatchbench.preprocessors")
MODELS = Registry("model", "qpatchbench.models")
DATASETS = Registry("dataset", "qpatchbench.data")

REGISTRIES: Mapping[str, Registry] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "quantizers": QUANTIZERS,
    "preprocessors": PREPROCESSORS,
    "models": MODELS,
    "datasets": DATASETS,
}


def load_plugin(target: str) -> None:
    """Register the components of a module that is no installed plugin.

    Args:
        target: a module name, or the path of a .py file. The module has a dict
            CATALOGUES = {"attacks": {"my_attack": Entry("module:Class", "what it does")}, ...}.

    Raises:
        PluginError: it cannot be imported (says file and line), or has no such dict.
    """
    module = _imported(target)
    catalogues = getattr(module, "CATALOGUES", None)
    if not isinstance(catalogues, dict):
        raise PluginError(f"plugin {target}: expected a dict CATALOGUES of kind -> name -> Entry, found none")
    for kind, entries in catalogues.items():
        if kind not in REGISTRIES:
            raise PluginError(
                f"plugin {target}: unknown kind {kind!r} in CATALOGUES.{suggestion(str(kind), REGISTRIES)}"
            )
        for name, entry in entries.items():
            REGISTRIES[kind].add(name, replace(entry, plugin=module.__name__))


def _imported(target: str) -> ModuleType:
    path = Path(target)
    try:
        if path.suffix != ".py":
            return importlib.import_module(target)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None, "a .py file always has a loader"
        assert spec.loader is not None, "a .py file always has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # so that "stem:Class" in its entries can be imported
        spec.loader.exec_module(module)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frame.filename, frame.lineno)
        raise PluginError(
            f"plugin {target} cannot be imported: {where[0]}:{where[1]}: {type(error).__name__}: {error}"
        ) from error
    return module
