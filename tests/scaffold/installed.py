"""A plugin package as if it were installed, without pip: its module on the path, its entry points in metadata."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.distributions import as_if_started_now, distribution


@contextmanager
def installed(package: Path, metadata: Path) -> Iterator[None]:
    """Inside, the registries know what `package` registers; `metadata` is an empty folder to write to."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    for group, entries in project["entry-points"].items():
        kind = group.removeprefix("qpatchbench.")
        distribution(metadata, project["name"], project["version"], kind, entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.syspath_prepend(str(metadata))
        with as_if_started_now():
            yield
