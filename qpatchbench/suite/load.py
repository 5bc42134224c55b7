"""From a suite file to a typed suite; every error at once, each with its line and column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from qpatchbench.component import Component
from qpatchbench.errors import PluginError, SuiteError, UnknownNameError, suggestion
from qpatchbench.registry import REGISTRIES, Registry
from qpatchbench.suite.coherence import incoherences
from qpatchbench.suite.schema import COMPONENT_SECTIONS, Suite
from qpatchbench.suite.source import KeyPath, Source, dotted, override, read_source


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read, override and check a suite file.

    Raises:
        SuiteError: with every problem as "file:line:column: key: what was expected, what was found".
    """
    return load_with_source(path, overrides)[0]


def load_with_source(path: Path, overrides: Sequence[str] = ()) -> tuple[Suite, Source]:
    """Like `load_suite`; the source tells later errors, such as a missing dataset, where they stand."""
    source = read_source(path)
    for assignment in overrides:
        override(source, assignment)
    problems: list[str] = []
    fields = {
        section: _components(source, section, problems) if section in COMPONENT_SECTIONS else value
        for section, value in source.data.items()
    }
    suite: Suite | None = None
    try:
        suite = Suite(**fields)
    except ValidationError as error:
        problems += _explained(error, Suite, (), source)
    if suite is None or problems:
        raise SuiteError(_in_file_order(problems))
    found = [f"{source.where(where)}: {dotted(where)}: {text}" for where, text in incoherences(suite)]
    if found:
        raise SuiteError(_in_file_order(found))
    return suite, source


def _components(source: Source, section: str, problems: list[str]) -> Any:  # noqa: ANN401 (validated by Suite)
    registry_name, is_list = COMPONENT_SECTIONS[section]
    registry = REGISTRIES[registry_name]
    value = source.data[section]
    if not is_list:
        return _component(value, registry, (section,), source, problems)
    if not isinstance(value, list):
        problems.append(f"{source.where((section,))}: {section}: expected a list, found {_shown(value)}")
        return ()
    return [_component(item, registry, (section, index), source, problems) for index, item in enumerate(value)]


def _component(
    value: object, registry: Registry, path: KeyPath, source: Source, problems: list[str]
) -> Component | None:
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        problems.append(
            f"{source.where(path)}: {dotted(path)}: expected the name of a {registry.kind}, "
            f"or a mapping with name and fields, found {_shown(value)}"
        )
        return None
    name = fields.get("name")
    if not isinstance(name, str):
        found = "no name" if name is None else f"name {name!r}"
        problems.append(f"{source.where(path)}: {dotted(path)}: expected a mapping with a name, found {found}")
        return None
    where = (*path, "name") if (*path, "name") in source.values else path
    try:
        cls = registry.get(name)
    except (UnknownNameError, PluginError) as error:
        problems.append(f"{source.where(where)}: {dotted(path)}: {error}")
        return None
    try:
        component: Component = cls(**fields)
    except ValidationError as error:
        problems += _explained(error, cls, path, source)
        return None
    return component


def _explained(error: ValidationError, model: type[BaseModel], prefix: KeyPath, source: Source) -> Iterable[str]:
    """Each pydantic error in this tool's words: position, key, expected, found, nearest."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        path = (*prefix, *_file_path(detail["loc"], prefix, source))
        if not prefix and path and path[0] in COMPONENT_SECTIONS and len(path) > 1 and detail["input"] is None:
            continue  # the component itself has been explained already
        if (
            not prefix
            and path
            and path[0] in COMPONENT_SECTIONS
            and source.data.get(str(path[0]))
            and (detail["input"] is None or detail["input"] == ())
        ):
            continue
        kind, found = detail["type"], _shown(detail["input"])
        if kind == "extra_forbidden":
            name = str(path[-1])
            known = _fields_at(model, path[len(prefix) :])
            text = f"{source.where(path, key=True)}: {dotted(path)}: unknown key {name!r}.{suggestion(name, known)}"
        elif kind == "missing":
            text = f"{source.where(path[:-1])}: {dotted(path[:-1]) or 'suite'}: required key {path[-1]!r} is missing"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be", "expected").replace("String should", "expected it to")
            message = message[0].lower() + message[1:]
            if "found" not in message:
                message += f", found {found}"
            text = f"{source.where(path)}: {dotted(path)}: {message}"
        if text not in seen:
            seen.add(text)
            yield text


def _file_path(location: Sequence[str | int], prefix: KeyPath, source: Source) -> KeyPath:
    """The part of a pydantic location that is in the file; union branches and the like are not."""
    path: KeyPath = ()
    for part in location:
        if (*prefix, *path, part) in source.values or (*prefix, *path, part) in source.overridden:
            path = (*path, part)
        elif (
            part == location[-1]
            and isinstance(part, str)
            and part.isidentifier()
            and _is_mapping(source, (*prefix, *path))
        ):
            path = (*path, part)
    return path


def _is_mapping(source: Source, path: KeyPath) -> bool:
    value: Any = source.data
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict | str)


def _fields_at(model: type[BaseModel], path: KeyPath) -> Iterable[str]:
    fields = model.model_fields
    for part in path[:-1]:
        if not isinstance(part, str) or part not in fields:
            continue
        nested = [fields[part].annotation, *getattr(fields[part].annotation, "__args__", ())]
        nested += [inner for item in nested for inner in getattr(item, "__args__", ())]
        models = [item for item in nested if isinstance(item, type) and issubclass(item, BaseModel)]
        if models:
            fields = models[0].model_fields
    return fields


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    return repr(value)


def _in_file_order(problems: Iterable[str]) -> list[str]:
    def position(problem: str) -> tuple[int, int]:
        parts = problem.split(":")
        numbers = [int(part) for part in parts[1:3] if part.isdigit()]
        return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)

    return sorted(dict.fromkeys(problems), key=position)
