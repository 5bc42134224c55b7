"""README, CONTRIBUTING and docs/: what they link to is there, and every command that they show is one."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from qpatchbench.cli import cli
from qpatchbench.registry import REGISTRIES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page, as it is commonly derived from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of every `qpatchbench ...`, in blocks and within lines."""
    plain = BLOCK.sub("", text)
    shown = [line for language, body in BLOCK.findall(text) if not language for line in body.splitlines()]
    shown += re.findall(r"`(qpatchbench [^`]+)`", plain.replace("\n", " "))
    for line in shown:
        if line.startswith("qpatchbench "):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8")))
    for link in links:
        if link.startswith("https:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page_id(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_their_options_exist(page: Path) -> None:
    for arguments in commands(page.read_text(encoding="utf-8")):
        command: click.Command = cli
        context = click.Context(cli, info_name="qpatchbench")
        if arguments[:1] == ["--plugin"]:
            arguments = arguments[2:]
        while isinstance(command, click.Group) and arguments:
            name, arguments = arguments[0], arguments[1:]
            found = command.get_command(context, name)
            assert found is not None, f"{page_id(page)}: qpatchbench has no command {name}"
            command = found
            context = click.Context(command, parent=context, info_name=name)
        if arguments:  # an unknown option raises; values, which may be DIR or NAME, are not converted
            command.make_parser(context).parse_args(list(arguments))


def test_suites_that_are_named_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bsuites/[\w/]+\.yaml", page.read_text(encoding="utf-8"))}
    named -= {"suites/papers/cifar_lavan_unseen.yaml"}  # the changelog says what it is called today
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_readme_is_one_screen_or_two() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size <= 150_000
    assert "simulated" in text


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\)", index, re.MULTILINE))


@pytest.mark.parametrize("kind", ["attacks", "defenses", "quantizers", "preprocessors", "datasets"])
def test_every_built_in_component_is_on_its_page(kind: str) -> None:
    page = (ROOT / "docs/components.md").read_text(encoding="utf-8")
    assert [
        name for name in importlib.import_module(REGISTRIES[kind].package).CATALOGUE if f"`{name}`" not in page
    ] == []


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    identifiers = [reference["identifiers"][0]["value"] for reference in citation["references"]]
    assert identifiers == ["arXiv:2508.12132", "arXiv:2503.07058"]
    assert f'Repository = "{citation["repository-code"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_pre_commit_runs_what_make_lint_runs() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    lint = [line.strip().removeprefix("$(BIN)/") for line in recipe.splitlines()[1:]]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert lint
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == lint


def test_hosted_checks_run_what_ci_runs_on_every_python() -> None:
    text = (ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["checks"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert job["strategy"]["matrix"]["python"] == classifiers


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_are_forms(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem != "config":
        assert {"name", "description", "body"} <= set(content)
        assert all("label" in part["attributes"] for part in content["body"])
