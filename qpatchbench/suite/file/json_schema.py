"""The JSON schema of suite files, with the fields of every registered component, for editors."""

from __future__ import annotations

import contextlib
from typing import Any

from pydantic.json_schema import models_json_schema

from qpatchbench.component import Component, PlainDefaults
from qpatchbench.errors import PluginError
from qpatchbench.registry import REGISTRIES, Registry
from qpatchbench.suite.file.schema import COMPONENT_PLACES, Suite


def suite_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a suite; a component is its name, or a mapping with a name."""
    schema = Suite.model_json_schema(schema_generator=PlainDefaults)
    definitions = schema.setdefault("$defs", {})
    classes = {kind: _classes(REGISTRIES[kind]) for kind, _ in COMPONENT_PLACES.values()}
    # All at once: classes of one name, such as two plugins may have, then get definitions of different names.
    references, found = models_json_schema(
        [(cls, "validation") for group in classes.values() for cls in group],
        ref_template="#/$defs/{model}",
        schema_generator=PlainDefaults,
    )
    definitions.update(found.get("$defs", {}))
    for path, (registry_name, is_list) in COMPONENT_PLACES.items():
        registry = REGISTRIES[registry_name]
        forms: list[dict[str, Any]] = [{"enum": list(registry.entries)}]
        for cls, names in classes[registry_name].items():
            reference = references[cls, "validation"]["$ref"]
            title = reference.rpartition("/")[2]
            fields = definitions[title]
            if not any(name.endswith("/<name>") for name in names):
                own = {**fields["properties"]["name"], "enum": names}
                fields = {**fields, "properties": {**fields["properties"], "name": own}}
            definitions[title] = fields
            forms.append({"$ref": reference})
        fields_of = schema["properties"]
        for section in path[:-1]:
            fields_of = definitions[_model_of(fields_of[section])]["properties"]
        field = fields_of[path[-1]]
        kept = {name: field[name] for name in ("description", "minItems") if name in field}
        item = {"anyOf": forms}
        fields_of[path[-1]] = {
            **kept,
            **({"type": "array", "items": item} if is_list else item),
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _classes(registry: Registry) -> dict[type[Component], list[str]]:
    """Every class of a kind with its names; what cannot be imported has a name and no fields."""
    classes: dict[type[Component], list[str]] = {}
    for name in registry.entries:
        with contextlib.suppress(PluginError):  # said when the component is used
            classes.setdefault(registry.get(name), []).append(name)
    return classes


def _model_of(field: dict[str, Any]) -> str:
    """The model that a field holds, or may hold."""
    options = field.get("anyOf", [field])
    return str(next(option["$ref"] for option in options if "$ref" in option)).rpartition("/")[2]
