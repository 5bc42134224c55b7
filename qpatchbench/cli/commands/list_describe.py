"""`qpatchbench list` and `qpatchbench describe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qpatchbench.cli.commands.describe_network import Describe
from qpatchbench.component import Component, PlainDefaults
from qpatchbench.errors import PluginError, UnknownNameError, suggestion
from qpatchbench.origin import source_hash
from qpatchbench.registry import BUILT_IN, REGISTRIES, Entry, Registry
from qpatchbench.runs.reading import MEGABYTE, read_whole

LISTS = (*REGISTRIES, "suites", "plugins", "tables", "figures")


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
@click.option("--json", "as_json", is_flag=True, help="A list of objects with name, summary, reference, plugin, ...")
def list_(kind: str, as_json: bool) -> None:
    """List components of a kind (attacks, defenses, ...), suites, plugins, or the papers' tables or figures.

    What a plugin brings is followed by the plugin's name and version; what cannot be imported of it is marked.
    """
    others = {"suites": _suites, "plugins": _plugins, "tables": _tables, "figures": _figures}
    rows = others.get(kind, lambda: _components(kind))()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo(f"no {kind} are registered", err=True)
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        version = row.get("version", "")
        origin = "" if row["plugin"] == BUILT_IN else f"  [{row['plugin']}{f' {version}' if version else ''}]"
        click.echo(f"{row['name']:{width}}  {row['summary']}{origin}")
        for reason in row.get("broken", "").splitlines():
            click.echo(f"    broken: {reason}")


def _components(kind: str) -> list[dict[str, str]]:
    return [_row(REGISTRIES[kind], name, entry) for name, entry in REGISTRIES[kind].entries.items()]


def _row(registry: Registry, name: str, entry: Entry) -> dict[str, str]:
    """A component's line, from its catalogue or else from its class, and why that cannot be imported, if so."""
    summary, reference, broken = entry.summary, entry.reference, ""
    if entry.plugin != BUILT_IN and not (summary and reference):
        try:
            component = registry.get(name)
            summary = summary or first_sentence(component.__doc__ or "")
            reference = reference or component.reference
        except PluginError as error:
            broken = str(error)
        summary = summary or f"from the plugin {entry.plugin}"
    facts = {"name": name, "summary": summary, "reference": reference, "plugin": entry.plugin}
    return {**facts, "version": entry.version, "broken": broken}


def first_sentence(docstring: str) -> str:
    r"""The first sentence on one line, without its full stop.

    >>> first_sentence("Blurs the image\n    a little. Then sharpens it.")
    'Blurs the image a little'
    """
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def _suites() -> list[dict[str, str]]:
    """Suite files below ./suites, and those that come with the package; a file's first comment line is its summary."""
    from qpatchbench.suite.named.library import shipped

    here = {str(path): path for path in sorted(Path("suites").glob("**/*.yaml"))}
    own = {path.resolve() for path in here.values()}
    rows = []
    for name, path in {**here, **{name: path for name, path in shipped().items() if path.resolve() not in own}}.items():
        try:
            first = read_whole(path, MEGABYTE).decode(errors="replace").partition("\n")[0]
        except OSError as error:
            first = f"# {error.strerror or error}"
        summary = first.lstrip("# ") if first.startswith("#") else ""
        rows.append({"name": name, "summary": summary, "reference": "", "plugin": BUILT_IN})
    return rows


def _plugins() -> list[dict[str, str]]:
    """Distributions and modules that register components from outside, what they register, and what is broken."""
    found: dict[tuple[str, str], list[str]] = {}
    broken: dict[tuple[str, str], list[str]] = {}
    for kind, registry in REGISTRIES.items():
        for name, entry in registry.entries.items():
            if entry.plugin != BUILT_IN:
                plugin = (entry.plugin, entry.version)
                found.setdefault(plugin, []).append(f"{kind}/{name}")
                broken.setdefault(plugin, []).extend(_reasons(registry, name))
    return [
        {
            "name": plugin,
            "summary": ", ".join(found[plugin, version]),
            "reference": "",
            "plugin": plugin,
            "version": version,
            "broken": "\n".join(broken[plugin, version]),
        }
        for plugin, version in sorted(found)
    ]


def _reasons(registry: Registry, name: str) -> list[str]:
    try:
        registry.get(name)
    except PluginError as error:
        return [str(error)]
    return []


def _tables() -> list[dict[str, str]]:
    """The published tables, as `qpatchbench table` calls them."""
    from qpatchbench.papers.printed.published_tables import CITATIONS, published_tables

    return [
        {"name": name, "summary": table.caption, "reference": CITATIONS[table.paper], "plugin": BUILT_IN}
        for name, table in published_tables().items()
    ]


def _figures() -> list[dict[str, str]]:
    """The figures that can be drawn, as `qpatchbench figure` calls them."""
    from qpatchbench.report.figures import CATALOGUE

    return [
        {"name": name, "summary": entry.summary, "reference": entry.reference, "plugin": BUILT_IN}
        for name, entry in CATALOGUE.items()
    ]


@click.command("describe")
@click.argument("kind", type=_Kind(tuple(REGISTRIES)))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The component's JSON schema.")
def describe(kind: str, name: str, as_json: bool) -> None:
    """Show the fields of one component: type, default, range, unit and meaning.

    `describe network SUITE MODEL QUANTIZER BITS` shows how each tensor of a deployed network is rounded.
    """
    registry = REGISTRIES[kind]
    try:
        entry = registry.entry(name)
    except UnknownNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    component: type[Component] = registry.get(name)
    schema = component.model_json_schema(schema_generator=PlainDefaults)
    if as_json:
        click.echo(json.dumps(schema, indent=1))
        return
    click.echo(f"{name} ({registry.kind}, {entry.plugin}): {entry.summary or first_sentence(component.__doc__ or '')}")
    if entry.reference or component.reference:
        click.echo(f"source: {entry.reference or component.reference}")
    click.echo(f"version {component.version}; {entry.target}")
    if entry.plugin != BUILT_IN:
        digest = source_hash(component) or "unknown"
        click.echo(f"package {entry.plugin} {entry.version or 'without version'}; source SHA-256 {digest}")
    click.echo()
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


COMMANDS = {"list": list_, "describe": Describe(describe)}
