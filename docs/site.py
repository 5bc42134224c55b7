"""Source of the site: these pages, results, and a reference that the code writes: `python docs/site.py FOLDER`.

`make docs` builds it with mkdocs-material, strictly: a link that leads nowhere is an error. mkdocs-material has an
environment of its own, as its requests is newer than what the extra `test` can have.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from pydantic import BaseModel

from qpatchbench.cli import COMMANDS, cli
from qpatchbench.registry import REGISTRIES, Entry, Registry
from qpatchbench.report.leaderboard.row import COLUMNS, INTEGERS, NUMBERS
from qpatchbench.report.page.board_page import board_page
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.grid import Grid
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.standing import standings
from qpatchbench.report.standings.standing_json import STANDINGS_SCHEMA
from qpatchbench.report.standings.threats import THREATS
from qpatchbench.runs import layout
from qpatchbench.runs.records import SCHEMA_VERSION, CellRecord
from qpatchbench.suite.file.schema import Suite

ROOT = Path(__file__).parents[1]
COPIED = (".md", ".csv", ".png", ".svg", ".json", ".yaml")


def assemble(folder: Path) -> None:
    """Write the whole source: the repository's documents where they lie in it, so that their links hold."""
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in sorted([*(ROOT / "results").rglob("*"), *(ROOT / "suites").rglob("*")]):
        if path.suffix in COPIED:
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copyfile(ROOT / "README.md", folder / "index.md")
    reference = folder / "reference"
    reference.mkdir()
    for name, lines in (("commands", commands()), ("components", components()), ("suite", suite()), ("files", files())):
        (reference / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "board.html").write_text(board(), encoding="utf-8")


def board() -> str:
    """The page over every run in results/ and every entry."""
    entries = ROOT / "results/entries"
    runs = sorted(path.parent for path in (ROOT / "results").glob("*/manifest.json"))
    experiments = read_experiments(runs, entries if any(entries.glob("*/manifest.json")) else None)
    experiments = tuple(
        replace(each, runs=tuple(Path(run).relative_to(ROOT).as_posix() for run in each.runs)) for each in experiments
    )
    return board_page(experiments, standings(experiments))


def commands() -> Iterator[str]:
    """Every command with its help."""
    yield "# Commands"
    for name in COMMANDS:
        yield from _command(cli.get_command(click.Context(cli), name), f"qpatchbench {name}")


def _command(command: click.Command | None, name: str) -> Iterator[str]:
    assert command is not None
    context = click.Context(command, info_name=name, max_content_width=100)
    yield from ("", f"## {name}", "", "```text", command.get_help(context), "```")
    if isinstance(command, click.Group):
        for own in command.list_commands(context):
            yield from _command(command.get_command(context, own), f"{name} {own}")


def components() -> Iterator[str]:
    """Every component with its paper and fields."""
    yield "# Components and their fields"
    for kind, registry in REGISTRIES.items():
        yield from ("", f"## {kind.capitalize()}")
        for name, entry in registry.entries.items():
            yield from _component(registry, name, entry)


def _component(registry: Registry, name: str, entry: Entry) -> Iterator[str]:
    yield from ("", f"### {registry.kind} `{name}`", "", f"{entry.summary[0].upper()}{entry.summary[1:]}.")
    if entry.reference:
        yield from ("", f"*{entry.reference}.*")
    yield from ("", f"`{entry.target.replace(':', '.')}`", "", _fields(registry.get(name)))


def suite() -> Iterator[str]:
    """The fields of a suite."""
    yield from (
        "# Fields of a suite",
        "",
        "[Suites](../docs/suites.md) explains them; components have",
        "[theirs](components.md).",
    )
    yield from ("", _fields(Suite))


def files() -> Iterator[str]:
    """The files of a run folder, and what their columns are."""
    named = [(key.lower().replace("_", " "), value) for key, value in vars(layout).items() if isinstance(value, str)]
    kept = [(what, f"`{name}`") for what, name in named if not what.startswith(" ") and ("." in name or name.islower())]
    yield from ("# Files and their formats", "", Grid(("what", "file or folder"), kept).markdown())
    yield from (
        "",
        "## leaderboard.csv",
        "",
        "One row per attack, source and target; percentages have four decimals.",
        "",
    )
    meanings = dict(DEFINITIONS)
    rows = [(f"`{name}`", _kind(name), meanings.get(name, "")) for name in COLUMNS]
    yield Grid(("column", "type", "meaning"), rows).markdown().replace("\\`", "`").replace("\\_", "_")
    yield from ("", f"## cells.parquet, schema version {SCHEMA_VERSION}", "", _fields(CellRecord))
    yield from ("", f"## Standings as JSON, schema version {STANDINGS_SCHEMA}", "")
    yield "`qpatchbench leaderboard --format json` writes `schema_version`, `threats`, and `rows` with `rates` of each."
    threats = [(f"`{name}`", threat.meaning) for name, threat in THREATS.items()]
    yield from ("", Grid(("threat", "meaning"), threats).markdown().replace("\\`", "`").replace("\\_", "_"))


def _kind(column: str) -> str:
    return "integer" if column in INTEGERS else "number" if column in NUMBERS else "text"


def _fields(model: type[BaseModel]) -> str:
    """Name, default and description of every field, as a table."""
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", default if len(default) < 60 else "see above", field.description or ""))
    return Grid(("field", "default", "meaning"), rows).markdown().replace("\\`", "`").replace("\\_", "_")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
