"""An instance of a component class that is small enough to be tried within seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from qpatchbench.component import Component
from qpatchbench.errors import PluginError
from qpatchbench.testing.requiring import kind_of

# Fields by their usual names; those of a class's own `trial` come before them.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "attack": {"size": 4, "steps": 3, "batch_size": 8, "queries": 40},
    "defense": {"size": 4, "steps": 2},
}
WIDTHS = ((32, 8, 4, 2), (8, 4, 2), (32,))


def trial(component: type[Any], name: str) -> Any:  # noqa: ANN401 (the class is known only at run time)
    """An instance called `name`: defaults, few steps, a small patch, and what the class's `trial` says.

    Raises:
        PluginError: a required field is not known; says which.
    """
    known = component.model_fields
    errors = []
    for small in _candidates(component):
        given = {field: value for field, value in small.items() if field in known}
        try:
            made: Component = component(**{"name": name, **given, **component.trial})
        except ValidationError as error:
            first = error.errors()[0]
            errors.append(f"{'.'.join(map(str, first['loc'])) or 'the fields'}: {first['msg']}")
        else:
            return made
    raise PluginError(
        f"{kind_of(component)} {name!r}: expected fields with defaults, or a class attribute trial = {{field: value}} "
        f"for those without, so that it can be tried; found {errors[0]}"
    )


def _candidates(component: type[Any]) -> Iterator[Mapping[str, Any]]:
    kind = kind_of(component)
    small = dict(SMALL.get(kind, {}))
    if kind == "attack" and component.covers == "image":
        del small["size"]
    if kind == "quantizer" and component.model_fields["bits"].is_required():
        for widths in WIDTHS:
            yield {**small, "bits": widths}
        return
    yield small
