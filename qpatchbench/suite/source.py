"""A suite file as plain data that remembers where every key and value stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from qpatchbench.errors import SuiteError

# Keys and list indices from the top of the file, for example ("attacks", 1, "size").
KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass
class Source:
    """Data of one YAML file, with positions.

    Attributes:
        name: how messages call the file.
        data: the mapping at its top.
        keys: position (line, column, from 1) of each key.
        values: position of each value.
        overridden: paths set from the command line.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """`file:line:column` of a key or value, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            if part in self.overridden:
                return f"--set {dotted(part)}"
            position = self.keys.get(part) if key and length == len(path) else self.values.get(part)
            if position is not None:
                return f"{self.name}:{position[0]}:{position[1]}"
        return f"{self.name}:1:1"


def dotted(path: KeyPath) -> str:
    """("attacks", 1, "size") -> "attacks[1].size"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_source(path: Path) -> Source:
    """Read a YAML file.

    Raises:
        SuiteError: not there, not YAML, not a mapping, or with a key twice; all such problems at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearby = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f" Suites there: {', '.join(nearby)}." if nearby else ""
        raise SuiteError([f"{path}: no such suite file.{hint}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError([f"{path}: expected a YAML text file, found one that cannot be read: {error}"]) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        problem = error.problem or str(error)
        if "'\\t'" in problem:
            problem = "expected spaces, found a tab: YAML indentation cannot contain tabs"
        raise SuiteError([f"{path}:{position}: not valid YAML: {problem}"]) from None
    except yaml.YAMLError as error:
        raise SuiteError([f"{path}:1:1: not valid YAML: {' '.join(str(error).split())}"]) from None
    if root is None:
        raise SuiteError([f"{path}:1:1: expected a suite, found an empty file"])
    if not isinstance(root, yaml.MappingNode):
        raise SuiteError(
            [f"{path}:1:1: expected a mapping with keys such as suite, dataset and models, found {_kind(root)}"]
        )
    source = Source(str(path))
    problems = list(_walk(root, (), source))
    if problems:
        raise SuiteError(problems)
    source.data = _construct(root)
    return source


def _construct(node: yaml.Node) -> Any:  # noqa: ANN401 (YAML data is anything)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _kind(node: yaml.Node) -> str:
    return {"ScalarNode": "a single value", "SequenceNode": "a list"}.get(type(node).__name__, "something else")


def _walk(node: yaml.Node, path: KeyPath, source: Source) -> Iterator[str]:
    """Record positions; yield problems that the plain data would no longer show."""
    source.values.setdefault(path, _position(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), source)
    if not isinstance(node, yaml.MappingNode):
        yield from _untagged(node, path, source)
        return
    for key, value in node.value:
        line, column = _position(key)
        here = f"{source.name}:{line}:{column}"
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            yield f"{here}: expected a word as key, found {getattr(key, 'value', 'a collection')!r}"
            continue
        inner = (*path, key.value)
        if inner in source.keys:
            first = source.keys[inner]
            yield f"{here}: {dotted(inner)}: key given twice, first in line {first[0]}"
            continue
        source.keys[inner] = (line, column)
        yield from _walk(value, inner, source)


def _untagged(node: yaml.Node, path: KeyPath, source: Source) -> Iterator[str]:
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        yield f"{source.where(path)}: {dotted(path)}: expected plain data, found the YAML tag {node.tag}"


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def override(source: Source, assignment: str) -> None:
    """Apply one `--set key.path=value`; list items are named by index, for example attacks.0.steps=10.

    Raises:
        SuiteError: no `=`, a value that is not YAML, or a path that leads nowhere.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise SuiteError([f"--set {assignment}: expected key.path=value, for example training.epochs=5"])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SuiteError([f"--set {assignment}: expected a YAML value after =, found {text!r}"]) from None
    path: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    holder: Any = source.data
    for depth, part in enumerate(path[:-1]):
        if isinstance(holder, list) and isinstance(part, int) and part < len(holder):
            if isinstance(holder[part], str):
                holder[part] = {"name": holder[part]}  # a component given by name alone gets fields
            holder = holder[part]
        elif isinstance(holder, dict) and isinstance(part, str):
            holder = holder.setdefault(part, {})
            if isinstance(holder, str) and depth == 0:
                source.data[part] = holder = {"name": holder}
        else:
            raise SuiteError([f"--set {assignment}: {dotted(path[: depth + 1])} is not there"])
    last = path[-1]
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        holder[last] = value
    elif isinstance(holder, dict) and isinstance(last, str):
        holder[last] = value
    else:
        raise SuiteError([f"--set {assignment}: {dotted(path)} is not there"])
    source.overridden.add(path)
