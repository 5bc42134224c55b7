"""A suite file as plain data that remembers where every key and value stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from qpatchbench.errors import SuiteError, suggestion
from qpatchbench.runs.reading import read_whole
from qpatchbench.suite.file.scalars import TAG, PlainLoader, is_number_or_truth, misread
from qpatchbench.suite.named.library import located, shipped

# Keys and list indices from the top of the file, for example ("attacks", 1, "size").
KeyPath: TypeAlias = tuple[str | int, ...]

KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "map": "a mapping",
    "seq": "a list",
}
PLAIN = {f"{TAG}{kind}": words for kind, words in KINDS.items()}
MERGE = f"{TAG}merge"
MOST_BYTES = 200_000  # of a suite file; reading YAML takes a second for every 100 kB
MOST_VALUES = 10_000  # aliases of aliases can stand for more than a memory holds
MOST_MERGED = 100_000  # and merges of merges for more pairs than there is time
LONGEST_NUMBER = 400  # characters


class Problem(NamedTuple):
    """Something wrong with a suite.

    Attributes:
        position: line and column, by which problems are sorted; the command line comes after the file.
        path: the key or value that is wrong.
        text: "file:line:column: key: what was expected, what was found".
    """

    position: tuple[float, float]
    path: KeyPath
    text: str


@dataclass
class Source:
    """Data of one YAML file, with positions.

    Attributes:
        name: how messages call the file.
        data: the mapping at its top.
        keys: position (line, column, from 1) of each key.
        values: position of each value.
        overridden: paths set from the command line, in order.
        top: how messages call the whole of it.
        pairs: keys and values looked at so far, those of merged mappings as often as they are merged.
        folder: where the file lies, to which the files that it names are relative; None where it lies nowhere.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    overridden: list[KeyPath] = field(default_factory=list)
    top: str = "suite"
    pairs: int = 0
    folder: Path | None = None

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """`file:line:column` of a key or value, or of the nearest thing around it; or the `--set` that it came from."""
        assigned = self._assigned(path)
        if assigned is not None:
            return f"--set {'.'.join(map(str, assigned))}"
        line, column = self._position(path, key)
        return f"{self.name}:{line}:{column}"

    def problem(self, path: KeyPath, text: str, *, key: bool = False) -> Problem:
        """What is wrong with the key or value at `path`."""
        position = self._position(path, key) if self._assigned(path) is None else (math.inf, math.inf)
        return Problem(position, path, f"{self.where(path, key=key)}: {dotted(path) or 'suite'}: {text}")

    def holds(self, path: KeyPath) -> bool:
        """Whether the data have something at `path`."""
        value: Any = self.data
        for part in path:
            in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
            if not in_list and not (isinstance(value, dict) and part in value):
                return False
            value = value[part]
        return True

    def assign(self, path: KeyPath) -> None:
        """Note that the value at `path` now comes from the command line, not from the file."""
        self.overridden.append(path)
        self._forget(path)

    def move(self, written: KeyPath, path: KeyPath) -> None:
        """Note that the value at `path` is now the one that the file has at `written`."""
        self._forget(path)
        for positions in (self.keys, self.values):
            for inner in [known for known in positions if known[: len(written)] == written]:
                positions[(*path, *inner[len(written) :])] = positions[inner]

    def _forget(self, path: KeyPath) -> None:
        for positions in (self.keys, self.values):
            for inner in [known for known in positions if known[: len(path)] == path]:
                del positions[inner]

    def _assigned(self, path: KeyPath) -> KeyPath | None:
        """The latest override that `path` lies in, or that made it."""
        for assigned in reversed(self.overridden):
            made = bool(path) and assigned[: len(path)] == path and path not in self.values
            if made or path[: len(assigned)] == assigned:
                return assigned
        return None

    def _position(self, path: KeyPath, key: bool) -> tuple[int, int]:
        if key and path in self.keys:
            return self.keys[path]
        return next((self.values[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.values), (1, 1))


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
    path = located(path)
    try:
        text = read_whole(path, MOST_BYTES).decode()
    except FileNotFoundError:
        nearby = sorted(str(other) for other in path.parent.glob("[!.]*.yaml")) if path.parent.is_dir() else []
        hint = f" Suites there: {', '.join(nearby)}." if nearby else ""
        if not path.suffix:
            hint += f"{suggestion(path.as_posix(), shipped())}".replace("Available", "With the package come")
        raise SuiteError([f"{path}: no such suite file.{hint}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError([f"{path}: expected a YAML text file, found one that cannot be read: {error}"]) from None
    source = Source(str(path), folder=path.parent)
    source.data = read_value(text, source)
    if source.data is None:
        raise SuiteError([f"{path}:1:1: expected a suite, found an empty file"])
    if not isinstance(source.data, dict):
        found = "a list" if isinstance(source.data, list) else "a single value"
        raise SuiteError([f"{path}:1:1: expected a mapping with keys such as suite, dataset and models, found {found}"])
    return source


def read_value(text: str, source: Source) -> Any:  # noqa: ANN401 (YAML data is anything)
    """Parse one document and record its positions in `source`; None if it is empty.

    Raises:
        SuiteError: it is not YAML, or more than plain data.
    """
    try:
        root = yaml.compose(text, Loader=PlainLoader)
        problems = [] if root is None else list(_walk(root, (), source))
        if problems:
            raise SuiteError(problems)
        return None if root is None else unshared(_construct(root))
    except yaml.YAMLError as error:
        raise SuiteError([f"{source.name}:{_explained(error, text)}"]) from None
    except RecursionError:
        problem = "expected a few levels, found a part that contains itself or is nested too deeply"
        raise SuiteError([f"{source.name}:1:1: {problem}"]) from None


def _explained(error: yaml.YAMLError, text: str) -> str:
    """line:column and what is wrong, from the YAML library's own words."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        position = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        return f"{position}: not valid YAML: expected text, found the character #x{error.character:04x}"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"1:1: not valid YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark or error.context_mark
    position = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
    problem = error.problem or str(error)
    if "'\\t'" in problem:
        return f"{position}: not valid YAML: expected spaces, found a tab: YAML indentation cannot contain tabs"
    start = f" ({error.context}, line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    return f"{position}: not valid YAML: {problem}{start}"


def _construct(node: yaml.Node) -> Any:  # noqa: ANN401 (YAML data is anything)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def unshared(value: Any) -> Any:  # noqa: ANN401 (YAML data is anything)
    """Copies where the file has aliases, so that overriding one place changes no other."""
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


def _walk(node: yaml.Node, path: KeyPath, source: Source) -> Iterator[str]:
    """Record positions; yield problems that the plain data would no longer show."""
    source.values.setdefault(path, _position(node))
    if len(source.values) > MOST_VALUES:
        raise SuiteError([f"{source.name}:1:1: expected at most {MOST_VALUES} values, found more"])
    here = f"{source.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {dotted(path) or source.top}"
    if node.tag not in PLAIN:
        date = node.tag == f"{TAG}timestamp"
        found = f"the date {node.value}; put it in quotes" if date else f"the tag {node.tag.replace(TAG, '!!')}"
        yield f"{here}: expected plain data, found {found}"
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), source)
    elif isinstance(node, yaml.MappingNode):
        yield from _walk_mapping(node, path, source)
    elif isinstance(node, yaml.ScalarNode):
        if node.style is None and len(node.value) > LONGEST_NUMBER and is_number_or_truth(node.value):
            yield f"{here}: expected a number, found {len(node.value):,} characters"
        elif wrong := misread(node):
            yield f"{here}: {wrong}"


def _walk_mapping(node: yaml.MappingNode, path: KeyPath, source: Source) -> Iterator[str]:
    own = {id(key) for key, _ in node.value}
    for key, value in [*_pairs(node, source, merged=False), *_pairs(node, source, merged=True)]:
        line, column = _position(key)
        here = f"{source.name}:{line}:{column}"
        word = isinstance(key, yaml.ScalarNode) and key.tag == f"{TAG}str"
        if not word or (not getattr(key, "style", None) and is_number_or_truth(key.value)):
            yield f"{here}: expected a word as key, found {getattr(key, 'value', 'a collection')!r}"
            continue
        inner = (*path, key.value)
        if inner in source.keys:
            if id(key) in own:  # a merged key is there for the case that it is not given
                yield f"{here}: {dotted(inner)}: key given twice, first in line {source.keys[inner][0]}"
            continue
        source.keys[inner] = (line, column)
        yield from _walk(value, inner, source)


def _pairs(node: yaml.MappingNode, source: Source, *, merged: bool) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values that a mapping gives itself, or those it merges from others with <<."""
    for key, value in node.value:
        source.pairs += 1
        if source.pairs > MOST_MERGED:
            raise SuiteError([f"{source.name}:1:1: expected at most {MOST_MERGED:,} keys merged with <<, found more"])
        if key.tag != MERGE:
            if not merged:
                yield key, value
        elif merged:
            for other in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                if isinstance(other, yaml.MappingNode):  # else the YAML library says what is wrong
                    yield from _pairs(other, source, merged=False)
                    yield from _pairs(other, source, merged=True)


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
