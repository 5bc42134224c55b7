"""Pydantic's errors in this tool's words: where, what was expected, what was found, and the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from qpatchbench.errors import suggestion
from qpatchbench.suite.file.source import KeyPath, Problem, Source

Details: TypeAlias = Sequence[Mapping[str, Any]]

EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("of at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("of at most", "le"),
}


def explained(error: ValidationError, model: type[BaseModel], prefix: KeyPath, source: Source) -> list[Problem]:
    """One problem per mistake.

    Args:
        error: what pydantic says.
        model: the class that was validated.
        prefix: where its fields stand in the file.
        source: the file.
    """
    grouped: dict[KeyPath, list[Mapping[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(_path_in_file(detail, prefix, source), []).append(detail)
    unknown = {path for path, details in grouped.items() if details[0]["type"] == "extra_forbidden"}
    meant = {(*path[:-1], _nearest(path[-1], _fields_at(model, path[len(prefix) :]))) for path in unknown}
    problems = []
    for path, details in grouped.items():
        kind = details[0]["type"]
        if kind == "extra_forbidden":
            known = suggestion(str(path[-1]), _fields_at(model, path[len(prefix) :]))
            problems.append(source.problem(path, f"unknown key {path[-1]!r}.{known}", key=True))
        elif kind == "missing" and isinstance(path[-1], str) and path[-1] == details[0]["loc"][-1]:
            if path not in meant:  # else the misspelt key has been reported
                problems.append(source.problem(path[:-1], f"required key {path[-1]!r} is missing"))
        elif not _entered_elsewhere(path, grouped):
            problems.append(source.problem(path, _mismatch(details)))
    return problems


def shown(value: object) -> str:
    """A value as a message shows it: short, and in YAML's words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _path_in_file(detail: Mapping[str, Any], prefix: KeyPath, source: Source) -> KeyPath:
    """The part of a pydantic location that is in the file; the names of union branches are not."""
    path = prefix
    for part in detail["loc"]:
        if source.holds((*path, part)):
            path = (*path, part)
    # A missing key is not in the file, and the keys of a component given by its name alone are not either.
    last = detail["loc"][-1] if detail["loc"] else None
    if detail["type"] == "missing" and isinstance(last, str):
        path = (*path, last)
    return path


def _entered_elsewhere(path: KeyPath, grouped: Mapping[KeyPath, object]) -> bool:
    """Whether another branch of a union got further into the same value, and so knows better what is wrong."""
    return any(len(other) > len(path) and other[: len(path)] == path for other in grouped)


def _mismatch(details: Details) -> str:
    """What was expected, over all branches of a union, and what was found."""
    message = str(details[0]["msg"]).removeprefix("Value error, ")
    if len(details) == 1 and details[0]["type"] == "value_error" and ", found " in message:
        return message  # a validator of ours, which knows best
    if details[0]["type"] == "missing":  # entries at the end of a list of fixed length
        wanted = [f"{details[-1]['loc'][-1] + 1} entries"]
    else:
        wanted = list(dict.fromkeys(_expectation(detail) for detail in details))
    value = details[0]["input"]
    text = f"expected {', or '.join(wanted)}, found {shown(value)}"
    choices = [choice for detail in details if detail["type"] == "literal_error" for choice in _choices(detail)]
    close = _nearest(value, choices)
    return f"{text}. Did you mean: {close}?" if close else text


def _expectation(detail: Mapping[str, Any]) -> str:
    kind, context = str(detail["type"]), detail.get("ctx", {})
    if kind in EXPECTED:
        return EXPECTED[kind]
    if kind in BOUNDS:
        word, key = BOUNDS[kind]
        return f"a number {word} {context[key]:g}"
    if kind == "literal_error":
        *others, last = _choices(detail)
        return f"{', '.join(others)} or {last}" if others else last
    if kind in ("too_short", "too_long"):
        bound = context["min_length" if kind == "too_short" else "max_length"]
        return f"at {'least' if kind == 'too_short' else 'most'} {bound} {'entry' if bound == 1 else 'entries'}"
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message.removeprefix("expected ").partition(", found ")[0]


def _choices(detail: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"]) or [str(detail["ctx"]["expected"])]


def _nearest(value: object, choices: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(value, list(choices), n=1)), "") if isinstance(value, str) else ""


def _fields_at(model: type[BaseModel], path: KeyPath) -> Iterable[str]:
    """Names of the fields beside the last part of `path`."""
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
