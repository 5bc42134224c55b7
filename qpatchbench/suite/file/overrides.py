"""Changing a suite before it is checked: one field from the command line, or a scale that the suite lists itself."""

from __future__ import annotations

from typing import Any

from qpatchbench.errors import SuiteError, suggestion
from qpatchbench.suite.file.source import KeyPath, Source, dotted, read_value, unshared


def override(source: Source, assignment: str) -> None:
    """Apply one `--set key.path=value`; list items are named by index, for example attacks.0.steps=10.

    Raises:
        SuiteError: no `=`, a value that is not plain YAML, or a path that leads nowhere.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not all(key.split(".")):
        raise SuiteError([f"--set {assignment}: expected key.path=value, for example training.epochs=5"])
    value = read_value(text, Source(f"--set {key}", top=key))
    source.assign(_replace(source, key, value, f"--set {assignment}"))


def scale_down(source: Source, name: str) -> None:
    """Apply the overrides that the suite lists under `scales.<name>`, and name the suite `<suite>_<name>`.

    Raises:
        SuiteError: the suite has no such scale, or an override leads nowhere.
    """
    listed = source.data.get("scales")
    scales: dict[str, Any] = listed if isinstance(listed, dict) else {}
    if name not in scales:
        found = f"this suite has no scale {name!r}.{suggestion(name, scales)}"
        raise SuiteError([f"{source.where(('scales',))}: --scale {name}: {found}"])
    if not isinstance(scales[name], dict):
        where: KeyPath = ("scales", name)
        raise SuiteError(
            [source.problem(where, "expected a mapping of key.path to value, such as training.epochs: 5").text]
        )
    for key, value in scales[name].items():
        written: KeyPath = ("scales", name, key)
        source.move(written, _replace(source, key, unshared(value), f"{source.where(written)}: {dotted(written)}"))
    source.data["suite"] = f"{source.data.get('suite')}_{name}"


def _replace(source: Source, key: str, value: Any, who: str) -> KeyPath:  # noqa: ANN401 (YAML data is anything)
    """Put a value where `key.path` leads, and return that path; `who` begins the message of an error."""
    path: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    holder: Any = source.data
    for depth, part in enumerate(path[:-1]):
        if isinstance(holder, list) and isinstance(part, int) and part < len(holder):
            if isinstance(holder[part], str):
                holder[part] = {"name": holder[part]}  # a component given by name alone gets fields
            holder = holder[part]
        elif isinstance(holder, dict) and isinstance(part, str):
            if holder.setdefault(part, {}) is None:
                holder[part] = {}  # a section whose fields are all commented out
            if isinstance(holder[part], str) and path[: depth + 1] == ("dataset",):
                holder[part] = {"name": holder[part]}  # the one section that is a component itself
            holder = holder[part]
        else:
            raise SuiteError([f"{who}: {dotted(path[: depth + 1])} is not there"])
    last = path[-1]
    fits = isinstance(holder, list) and isinstance(last, int) and last < len(holder)
    if not fits and not (isinstance(holder, dict) and isinstance(last, str)):
        raise SuiteError([f"{who}: {dotted(path)} is not there"])
    holder[last] = value
    return path
