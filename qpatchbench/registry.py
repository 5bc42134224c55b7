"""Lazy registries: a name maps to one catalogue line, and its class is imported only when it is used.

Built-in components stand in the literal `CATALOGUE` of their package; components of other
distributions are found by entry points of the same group name, for example `qpatchbench.attacks`.
Nothing here imports torch, pydantic or a component module until `Registry.get` is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from qpatchbench.errors import PluginError, UnknownNameError

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
            # A built-in name is never replaced silently: the plugin's stays reachable with its namespace.
            name = f"{plugin}:{point.name}" if point.name in found else point.name
            found[name] = Entry(point.value, f"from the plugin {plugin}", plugin=plugin)
        return dict(sorted(found.items()))

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
