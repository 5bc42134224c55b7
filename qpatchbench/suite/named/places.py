"""Files that a suite names, relative to the folder that the suite lies in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpatchbench.component import Component
from qpatchbench.models.weights import PACKAGE, PRETRAINED, TRAIN

WORDS = (TRAIN, PRETRAINED)  # that stand where a file may stand


def placed(component: type[Component], fields: Mapping[str, Any], folder: Path | None) -> dict[str, str]:
    """Those fields of a component that name a file, as paths from the working folder.

    Args:
        component: the class, whose `files` are meant.
        fields: as the suite has them.
        folder: of the suite; None: nothing is changed.
    """
    texts = {name: fields[name] for name in component.files if isinstance(fields.get(name), str)}
    return {name: beside(text, folder) for name, text in texts.items()} if folder is not None else {}


def beside(text: str, folder: Path) -> str:
    """A file beside a suite as a path from the working folder; one that lies there already stays as it is.

    What is written behind the last colon, such as the function of `my_net.py:build`, is kept.
    """
    if text in WORDS or text.startswith((PACKAGE, "~")) or Path(text).is_absolute():
        return text
    name, colon, rest = text.rpartition(".py:")
    file = Path(f"{name}.py" if colon else text)
    found = folder / file
    try:
        if not found.exists() and file.exists():
            return text
    except (OSError, ValueError):  # a name that no system has; its component says so
        return text
    whole, here = found.absolute(), Path.cwd()
    path = whole.relative_to(here) if whole.is_relative_to(here) else whole
    return f"{path}:{rest}" if colon else str(path)
