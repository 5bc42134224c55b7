"""Promises of components of all kinds: they are their fields, and looking at them costs nothing."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from qpatchbench.component import Component
from qpatchbench.registry import REGISTRIES
from qpatchbench.testing.require import fail, require

UNKNOWN = "a_field_that_nobody_has"
# A year, an arXiv number, a DOI or an address.
CITATION = re.compile(r"\b(19|20)\d\d\b|arXiv|doi\.org|https?://|\b\d{4}\.\d{4,5}\b")


def fields_are_frozen(component: Component, seed: int) -> None:
    """No field can be assigned: a component is its hyper-parameters."""
    try:
        setattr(component, "name", component.name)  # noqa: B010 (a type checker knows that it is frozen)
    except ValidationError:
        return
    fail(component, "frozen fields; keep the model_config of Component", "an assignment to `name` that works")


def unknown_fields_are_refused(component: Component, seed: int) -> None:
    """A misspelt field is an error, never ignored."""
    try:
        type(component).model_validate({**component.model_dump(), UNKNOWN: 1})
    except ValidationError as error:
        named = any(UNKNOWN in map(str, problem["loc"]) for problem in error.errors())
        require(named, component, "an error that names the unknown field", error.errors()[0]["msg"])
        return
    fail(component, 'extra="forbid"; keep the model_config of Component', "an unknown field that is accepted")


def fields_are_described(component: Component, seed: int) -> None:
    """Every field has a description, which `describe` shows; and the class says what it is."""
    require(bool(type(component).__doc__), component, "a class docstring that says what it is", "none")
    for name, field in type(component).model_fields.items():
        described = name == "name" or bool(field.description)
        require(described, component, f'Field(..., description="...") for the field {name!r}', "no description")


def fields_survive_json(component: Component, seed: int) -> None:
    """Fields written as JSON, as a manifest does, give an equal component with the same identity."""
    try:
        text = json.dumps(component.model_dump(mode="json"))
        again = type(component).model_validate(json.loads(text))
    except (TypeError, ValueError) as error:
        fail(component, "fields that can be written as JSON and read again", f"{type(error).__name__}: {error}")
    changed = [n for n in type(component).model_fields if getattr(again, n) != getattr(component, n)]
    require(not changed, component, "the same values after writing and reading JSON", f"other values of {changed}")
    same = again.identity() == component.identity()
    require(same, component, "an identity that follows from the fields", "another one for equal fields")


def name_and_version_are_given(component: Component, seed: int) -> None:
    """A name, and a `version` of 1 or more, which is raised when numbers change."""
    require(bool(component.name.strip()), component, "a name", repr(component.name))
    version = type(component).version
    whole = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    require(whole, component, "version: ClassVar[int] of at least 1", repr(version))


def a_source_is_named(component: Component, seed: int) -> None:
    """Its paper is cited: in `reference`, in its catalogue line, or in a docstring with a year or an address."""
    cls = type(component)
    target = f"{cls.__module__}:{cls.__qualname__}"
    lines = [entry for registry in REGISTRIES.values() for entry in registry.entries.values()]
    cited = any(entry.reference for entry in lines if entry.target == target)
    module = sys.modules.get(cls.__module__)
    texts = [cls.reference, cls.__doc__ or "", (module.__doc__ if module else None) or ""]
    named = cited or any(CITATION.search(text) for text in texts)
    expected = 'reference: ClassVar[str] = "Authors year, title, arXiv number", or your own report and its year'
    require(named, component, expected, "no year, arXiv number or address in reference or docstrings")


def importing_it_needs_no_torch(component: Component, seed: int) -> None:
    """Its module touches nothing of torch while it is imported: listing and planning must answer at once."""
    module = sys.modules.get(type(component).__module__)
    file = inspect.getsourcefile(type(component)) if module is not None and module.__name__ != "__main__" else None
    if module is None or file is None:
        return
    parent = module.__name__.rpartition(".")[0]
    copy = f"{parent}.{COPY}" if parent else COPY  # so that relative imports find their package
    spec = importlib.util.spec_from_file_location(copy, file)
    assert spec is not None, "a source file has a loader"
    assert spec.loader is not None, "a source file has a loader"
    again = importlib.util.module_from_spec(spec)
    sys.modules[copy] = again
    try:
        with _without_torch():
            spec.loader.exec_module(again)
    except _TouchedError as touched:
        expected = "a module that only says `import torch` and uses it inside functions"
        fail(component, expected, f"{touched} at import ({file}:{_line(touched, file)})")
    except ImportError as error:
        if "torch" not in str(error):
            raise
        expected = "a module that only says `import torch` and uses it inside functions"
        fail(component, expected, f"{error} ({file}:{_line(error, file)})")
    finally:
        del sys.modules[copy]


COPY = "imported_without_torch"


class _TouchedError(Exception):
    """Something of torch was used."""


class _Untouchable(ModuleType):
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (any attribute of torch)
        if name.startswith("__"):
            raise AttributeError(name)
        raise _TouchedError(f"torch.{name}")


@contextmanager
def _without_torch() -> Iterator[None]:
    """`import torch` gives a module without content; parts of torch cannot be imported."""
    held = {name: part for name, part in sys.modules.items() if name == "torch" or name.startswith("torch.")}
    for name in held:
        del sys.modules[name]
    sys.modules["torch"] = _Untouchable("torch")
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
            del sys.modules[name]
        sys.modules.update(held)


def _line(error: BaseException, file: str) -> int:
    """The last line of `file` in the traceback."""
    lines, trace = [0], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1]


CHECKS: tuple[Callable[[Component, int], str | None], ...] = (
    fields_are_frozen,
    unknown_fields_are_refused,
    fields_are_described,
    fields_survive_json,
    name_and_version_are_given,
    a_source_is_named,
    importing_it_needs_no_torch,
)
