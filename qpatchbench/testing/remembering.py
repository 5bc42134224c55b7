"""Work that a row of checks shares: the last result for each role, kept until another component is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from qpatchbench.component import Component

T = TypeVar("T")

_KEPT: dict[str, tuple[tuple[object, ...], Any]] = {}


def once(role: str, component: Component, make: Callable[[], T], *further: object) -> T:
    """What `make` gives for a component, made anew where the component or anything `further` is another."""
    key = (type(component), component.model_dump_json(), *further)
    if role not in _KEPT or _KEPT[role][0] != key:
        _KEPT[role] = (key, make())
    kept: T = _KEPT[role][1]
    return kept
