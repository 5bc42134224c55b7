"""The ways in which a check says that it does not hold, or that there is nothing to hold; what all must leave alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch

from qpatchbench.component import Component
from qpatchbench.errors import PluginError

# Base class -> kind of component.
KINDS = {
    "qpatchbench.attacks.base:Attack": "attack",
    "qpatchbench.defenses.base:Defense": "defense",
    "qpatchbench.quantizers.base:Quantizer": "quantizer",
    "qpatchbench.preprocessors.base:Preprocessor": "preprocessor",
    "qpatchbench.models.base:ModelSource": "model",
    "qpatchbench.data.base:DatasetSource": "dataset",
}


class DoesNotApplyError(Exception):
    """Raised by a check that has nothing to look at in this component; says why."""


def kind_of(component: type[Any]) -> str:
    """The kind whose base class a class derives from.

    Raises:
        PluginError: it derives from none.
    """
    for base in component.__mro__:
        kind = KINDS.get(f"{base.__module__}:{base.__qualname__}")
        if kind is not None:
            return kind
    bases = ", ".join(sorted(KINDS))
    raise PluginError(f"{component.__qualname__}: expected a class derived from one of {bases}; found none of them")


def require(holds: bool, component: Component, expected: str, found: object) -> None:
    """Raise unless it holds.

    Args:
        holds: the invariant.
        component: what is checked.
        expected: what must be, and what to do about it.
        found: what is.

    Raises:
        PluginError: it does not hold.
    """
    if not holds:
        fail(component, expected, found)


def fail(component: Component, expected: str, found: object) -> NoReturn:
    """Say that an invariant does not hold; see `require`."""
    raise PluginError(f"{kind_of(type(component))} {component.title!r}: expected {expected}; found {found}")


@contextmanager
def no_global_draws(component: Component, instead: str) -> Iterator[None]:
    """The global generators of torch, numpy and Python must stay where they are meanwhile.

    Args:
        component: what runs inside.
        instead: where it may draw from.
    """
    before = _generator_states()
    yield
    for name, old, new in zip(("torch's", "numpy's", "Python's"), before, _generator_states(), strict=True):
        require(old == new, component, f"{name} global generator untouched; {instead}", "draws from it, or a new seed")


def _generator_states() -> tuple[object, ...]:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (it is this one that must not move)
    return torch.get_rng_state().tolist(), repr(legacy), random.getstate()


def same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    """The name of the first tensor that differs, NaN being equal to NaN, or "" where none does."""
    for name in first.keys() | second.keys():
        if name not in first or name not in second:
            return name
        one, other = first[name], second[name]
        if one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num()):
            return name
    return ""
