"""Numbers where truth values belong, truth values where numbers belong, and numbers in quotes that are not plain.

Pydantic turns true into 1, 1 into true and "012" into 12. A suite that says one thing and runs another is worse than
one that is refused, so what was typed is held against the fields before they are filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from qpatchbench.suite.file.scalars import is_plain
from qpatchbench.suite.file.source import KeyPath


def mistyped(model: type[BaseModel], typed: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield (path in the file, problem) for every such value.

    Args:
        model: the class that is to be filled.
        typed: its fields as the file has them.
        path: where they stand in the file.
    """
    for name, value in typed.items():
        if name in model.model_fields:
            yield from _mistyped(_branches(model.model_fields[name].annotation), value, (*path, name))


def _mistyped(branches: Sequence[Any], value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            inner = [part for branch in branches for part in _items(branch, index)]
            yield from _mistyped(inner, item, (*path, index))
    elif isinstance(value, dict):
        for branch in branches:
            if isinstance(branch, type) and issubclass(branch, BaseModel):
                yield from mistyped(branch, value, path)
    else:
        wanted = _refusal(branches, value)
        if wanted:
            yield path, f"expected {wanted}, found {str(value).lower() if isinstance(value, bool) else repr(value)}"


def _refusal(branches: Sequence[Any], value: object) -> str:
    """What is expected instead of a scalar; "" where it may stand, or where pydantic knows better."""
    number = "a number" if float in branches else "a whole number" if int in branches else ""
    literals = [(type(choice), choice) for branch in branches for choice in _literals(branch)]
    if any(branch in (Any, object, type(value)) for branch in branches) or (type(value), value) in literals:
        return ""
    if isinstance(value, bool):
        return number
    if isinstance(value, int | float):
        return "true or false" if bool in branches and not number else ""
    if isinstance(value, str) and number and any(letter.isdigit() for letter in value) and not is_plain(value):
        return f"{number} in plain decimal form"
    return ""


def _branches(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 (any annotation)
    """The alternatives of a union, or the one there is."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for branch in get_args(annotation) for part in _branches(branch))
    return (annotation,)


def _items(branch: Any, index: int) -> tuple[Any, ...]:  # noqa: ANN401 (any annotation)
    """What the items of a list may be."""
    inner = get_args(branch)
    if get_origin(branch) is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        return _branches(inner[index]) if index < len(inner) else ()
    return _branches(inner[0]) if get_origin(branch) in (tuple, list, set, frozenset, Sequence) and inner else ()


def _literals(branch: Any) -> tuple[Any, ...]:  # noqa: ANN401 (any annotation)
    return get_args(branch) if get_origin(branch) is Literal else ()
