"""Reading the data files of this folder."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any

import yaml

# The loader in C, where PyYAML has it, is seven times as fast; both read the same.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(name: str) -> Any:  # noqa: ANN401 (what the file holds)
    """The content of a YAML file beside this module."""
    return yaml.load(_text(name), Loader=_LOADER)  # noqa: S506 (both loaders are safe ones)


def read_csv(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file beside this module; every field is text, "" where the paper is silent."""
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    return files("qpatchbench.papers.printed").joinpath(name).read_text(encoding="utf-8")
