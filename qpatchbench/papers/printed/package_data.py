"""Reading the data files of this folder into values."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

# The loader in C, where PyYAML has it, is seven times as fast; both read the same.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Entry = TypeVar("_Entry")


def read(name: str, kind: type[_Entry]) -> tuple[_Entry, ...]:
    """The entries of a .yaml or .csv file beside this module, every field checked.

    Raises:
        pydantic.ValidationError: an entry is not of this kind.
    """
    text = files("qpatchbench.papers.printed").joinpath(name).read_text(encoding="utf-8")
    entries: Any = csv.DictReader(text.splitlines()) if name.endswith(".csv") else yaml.load(text, Loader=_LOADER)  # noqa: S506 (both loaders are safe ones)
    return TypeAdapter(tuple[kind, ...]).validate_python(tuple(entries))  # type: ignore[valid-type]  # a type, given
