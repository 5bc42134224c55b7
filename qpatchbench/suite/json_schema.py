"""The JSON schema of suite files, with the fields of every registered component, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from qpatchbench.component import PlainDefaults
from qpatchbench.registry import REGISTRIES
from qpatchbench.suite.schema import COMPONENT_PLACES, Suite


def suite_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a suite; a component is its name, or a mapping with a name."""
    schema = Suite.model_json_schema(schema_generator=PlainDefaults)
    definitions = schema.setdefault("$defs", {})
    for path, (registry_name, is_list) in COMPONENT_PLACES.items():
        registry = REGISTRIES[registry_name]
        classes: dict[type, list[str]] = {}
        for name in registry.entries:
            classes.setdefault(registry.get(name), []).append(name)
        _, found = models_json_schema(
            [(cls, "validation") for cls in classes],
            ref_template="#/$defs/{model}",
            schema_generator=PlainDefaults,
        )
        definitions.update(found.get("$defs", {}))
        forms: list[dict[str, Any]] = [{"enum": list(registry.entries)}]
        for cls, names in classes.items():
            fields = definitions[cls.__name__]
            if not any(name.endswith("/<name>") for name in names):
                own = {**fields["properties"]["name"], "enum": names}
                fields = {**fields, "properties": {**fields["properties"], "name": own}}
            definitions[cls.__name__] = fields
            forms.append({"$ref": f"#/$defs/{cls.__name__}"})
        fields_of = schema["properties"]
        for section in path[:-1]:
            fields_of = definitions[_model_of(fields_of[section])]["properties"]
        described = {"description": fields_of[path[-1]].get("description", "")}
        item = {"anyOf": forms}
        fields_of[path[-1]] = {
            **described,
            **({"type": "array", "minItems": 1, "items": item} if is_list else item),
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _model_of(field: dict[str, Any]) -> str:
    """The model that a field holds, or may hold."""
    options = field.get("anyOf", [field])
    return str(next(option["$ref"] for option in options if "$ref" in option)).rpartition("/")[2]
