"""Modules that are imported at their first use.

`import torch` takes seconds, and a component's fields live beside its algorithm, so that describing or planning would
pay for it. Component modules touch no attribute of torch while they are imported (a test holds them to it), therefore
a deferred torch never loads unless something is computed.
"""

from __future__ import annotations

import importlib.util
import sys


def defer(name: str) -> None:
    """Make the next `import name` give a module that loads itself when one of its attributes is read."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return  # the import itself will say what is missing
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
