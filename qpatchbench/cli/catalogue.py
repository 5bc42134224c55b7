"""`qpatchbench list` and `qpatchbench describe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qpatchbench.component import PlainDefaults
from qpatchbench.errors import UnknownNameError, suggestion
from qpatchbench.registry import BUILT_IN, REGISTRIES

LISTS = (*REGISTRIES, "suites", "plugins", "tables")


class _Kind(click.ParamType[str]):
    """A kind of component, singular or plural."""

    name = "kind"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        plural = value if value.endswith("s") else f"{value}s"
        if plural not in self.choices:
            self.fail(f"no kind {value!r}.{suggestion(plural, self.choices)}", param, context)
        return plural


@click.command("list")
@click.argument("kind", type=_Kind(LISTS))
@click.option("--json", "as_json", is_flag=True, help="A list of objects with name, summary, reference, plugin.")
def list_(kind: str, as_json: bool) -> None:
    """List attacks, defenses, quantizers, preprocessors, models, datasets, suites, plugins or the papers' tables."""
    rows = {"suites": _suites, "plugins": _plugins, "tables": _tables}.get(kind, lambda: _components(kind))()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo(f"no {kind} are registered", err=True)
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        origin = "" if row["plugin"] == BUILT_IN else f"  [{row['plugin']}]"
        click.echo(f"{row['name']:{width}}  {row['summary']}{origin}")


def _components(kind: str) -> list[dict[str, str]]:
    return [
        {"name": name, "summary": entry.summary, "reference": entry.reference, "plugin": entry.plugin}
        for name, entry in REGISTRIES[kind].entries.items()
    ]


def _suites() -> list[dict[str, str]]:
    """Suite files below ./suites; the first comment line of a file is its summary."""
    rows = []
    for path in sorted(Path("suites").glob("**/*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        summary = first.lstrip("# ") if first.startswith("#") else ""
        rows.append({"name": str(path), "summary": summary, "reference": "", "plugin": BUILT_IN})
    return rows


def _plugins() -> list[dict[str, str]]:
    """Distributions that register components from outside, and what they register."""
    found: dict[str, list[str]] = {}
    for kind, registry in REGISTRIES.items():
        for name, entry in registry.entries.items():
            if entry.plugin != BUILT_IN:
                found.setdefault(entry.plugin, []).append(f"{kind}/{name}")
    return [
        {"name": plugin, "summary": ", ".join(names), "reference": "", "plugin": plugin}
        for plugin, names in sorted(found.items())
    ]


def _tables() -> list[dict[str, str]]:
    """The published tables, as `qpatchbench table` calls them."""
    from qpatchbench.reference.tables import CITATIONS, published_tables

    return [
        {"name": name, "summary": table.caption, "reference": CITATIONS[table.paper], "plugin": BUILT_IN}
        for name, table in published_tables().items()
    ]


@click.command("describe")
@click.argument("kind", type=_Kind(tuple(REGISTRIES)))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The component's JSON schema.")
def describe(kind: str, name: str, as_json: bool) -> None:
    """Show the fields of one component: type, default, range, unit and meaning."""
    registry = REGISTRIES[kind]
    try:
        entry = registry.entry(name)
    except UnknownNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    component = registry.get(name)
    schema = component.model_json_schema(schema_generator=PlainDefaults)
    if as_json:
        click.echo(json.dumps(schema, indent=1))
        return
    click.echo(f"{name} ({registry.kind}, {entry.plugin}): {entry.summary}")
    if entry.reference:
        click.echo(f"source: {entry.reference}")
    click.echo(f"version {component.version}; {entry.target}\n")
    for field, facts in schema["properties"].items():
        if field in ("name", "label"):
            continue
        default = json.dumps(facts["default"]) if "default" in facts else "required"
        limits = ", ".join(f"{word} {facts[key]}" for key, word in RANGES.items() if key in facts)
        details = [
            _type_of(facts, schema),
            *([limits] if limits else []),
            *([facts["unit"]] if "unit" in facts else []),
        ]
        click.echo(f"  {field} = {default}   ({'; '.join(details)})")
        click.echo(f"      {facts.get('description', '')}")


RANGES = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minItems": "items at least",
}


def _type_of(facts: dict[str, Any], schema: dict[str, Any]) -> str:
    """A JSON-schema type in words."""
    if "$ref" in facts:
        facts = schema["$defs"][facts["$ref"].rpartition("/")[2]]
    if "enum" in facts or "const" in facts:
        return " | ".join(str(value) for value in facts.get("enum", [facts.get("const")]))
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_type_of(option, schema) for option in facts["anyOf"]))
    if facts.get("type") == "array":
        items = facts.get("items") or (facts.get("prefixItems") or [{}])[0]
        return f"list of {_type_of(items, schema)}"
    return {"null": "none", "boolean": "true | false"}.get(str(facts.get("type")), str(facts.get("type", "any")))


COMMANDS = {"list": list_, "describe": describe}
