"""The site: its reference is whole, its navigation and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from qpatchbench.cli import COMMANDS
from qpatchbench.registry import REGISTRIES
from qpatchbench.report.leaderboard.row import COLUMNS
from qpatchbench.suite.file.schema import Suite

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs/site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "source"
    builder().assemble(folder)
    return folder


def read(source: Path, name: str) -> str:
    return (source / "reference" / f"{name}.md").read_text(encoding="utf-8")


def test_the_reference_has_every_command_component_field_and_column(source: Path) -> None:
    headings = set(re.findall(r"^## qpatchbench (.+)$", read(source, "commands"), re.MULTILINE))
    assert set(COMMANDS) <= headings
    assert "plugin check" in headings
    components = read(source, "components")
    for registry in REGISTRIES.values():
        for name, entry in registry.entries.items():
            part = components.partition(f"\n### {registry.kind} `{name}`\n")[2].partition("\n### ")[0]
            assert part, name
            assert not entry.reference or entry.reference in components
            assert all(f"| `{field}` |" in part for field in registry.get(name).model_fields), name
    assert all(f"| `{field}` |" in read(source, "suite") for field in Suite.model_fields)
    assert all(f"| `{column}` |" in read(source, "files") for column in COLUMNS)


def test_the_board_of_the_site_has_every_run_of_the_results(source: Path) -> None:
    page = (source / "board.html").read_text(encoding="utf-8")
    for path in (ROOT / "results").glob("*/manifest.json"):
        assert f"results/{path.parent.name}" in page
    assert str(ROOT) not in page


def nav_targets(entries: list[Any]) -> list[str]:
    found: list[str] = []
    for entry in entries:
        for value in entry.values():
            found += nav_targets(value) if isinstance(value, list) else [value]
    return found


def test_the_navigation_leads_to_every_document(source: Path) -> None:
    listed = nav_targets(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert [name for name in listed if not (source / name).is_file()] == []
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.md"}
    assert pages <= set(listed)


def test_links_of_the_source_lead_somewhere(source: Path) -> None:
    for page in sorted(source.rglob("*.md")):
        links = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8")))
        inner = [link for link in links if not link.startswith(("https:", "#"))]
        assert [link for link in inner if not (page.parent / link.partition("#")[0]).exists()] == [], page
