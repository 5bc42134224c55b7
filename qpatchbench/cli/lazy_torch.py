"""Modules that are imported at their first use.

`import torch` takes seconds, and a component's fields live beside its algorithm, so that describing or planning would
pay for it. Component modules touch no attribute of torch while they are imported (a test holds them to it), therefore
a deferred torch never loads unless something is computed. The standard library's LazyLoader cannot serve: before
Python 3.12 a second `import` of a lazy module already loads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands in for a module until an attribute is read, and then answers as the module would."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (any attribute of any module)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        found = getattr(importlib.import_module(self.__name__), name)
        self.__dict__[name] = found  # whoever imported the stand-in keeps it: the next look costs no import
        return found


def defer(name: str) -> None:
    """Make `import name` cost nothing until an attribute of the module is read."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is not None:  # an absent module fails at its import, with Python's own message
        sys.modules[name] = module = _Deferred(name)
        module.__spec__ = spec
