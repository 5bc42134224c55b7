"""README, CONTRIBUTING and docs/: what they link to is there, and every command that they show is one.

The quick ones are run here, `make test-docs` runs all of them.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from glob import glob
from pathlib import Path

import click
import pytest
import yaml

from qpatchbench.cli import cli
from qpatchbench.cli.commands.describe_network import describe_network
from qpatchbench.registry import REGISTRIES
from tests.cli.running import ended
from tests.documents.changes import quick, typed, unused
from tests.documents.reading import documents, shown
from tests.documents.said import missing, unsaid

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page, as it is commonly derived from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
    for each in shown(page_id(page)):
        if not each.text.startswith("qpatchbench "):
            continue
        arguments = shlex.split(each.text)[1:]
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
        if arguments[:1] == ["network"]:  # a command within `describe`, which chooses it by its first argument
            command, arguments = describe_network, arguments[1:]
        if arguments:  # an unknown option raises; values, which may be DIR or NAME, are not converted
            command.make_parser(context).parse_args(list(arguments))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where suites, pages and results lie, those of a quick start among them."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("suites", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "results").mkdir()
    for path in (ROOT / "results").iterdir():
        (folder / "results" / path.name).symlink_to(path)
    (folder / "results/quickstart").symlink_to(ROOT / "results/entries/quickstart-seed-0")
    return folder


@pytest.mark.parametrize("document", documents())
def test_quick_commands_end_well(document: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(place, folder, symlinks=True)
    for command in filter(quick, shown(document)):
        words = shlex.split(typed(command))[1:]
        arguments = [path for word in words for path in (sorted(glob(word, root_dir=folder)) or [word])]
        done = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, f"{document}:{command.line}: {typed(command)}\n{done.stderr}"
        assert missing(command, done.stdout + done.stderr) == [], f"{document}:{command.line}: {typed(command)}"


def test_options_that_the_quick_start_lists_exist() -> None:
    text = (ROOT / "docs/quick-start.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[^`]+)` \|", text, re.MULTILINE)
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    assert len(rows) >= 9
    for row in rows:
        command.make_context("run", [*shlex.split(row), "quickstart"])


def test_every_change_of_a_command_is_needed() -> None:
    commands = [command for document in documents() for command in shown(document)]
    assert unused(commands) == []
    assert unsaid(commands) == []
    assert len([command for command in commands if quick(command)]) >= 30


def test_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [command.text for document in documents() for command in shown(document)]
    targets = {command.split()[1] for command in commands if command.startswith("make ")}
    assert len(targets) >= 10
    assert [target for target in sorted(targets) if f"\n{target}:" not in makefile] == []


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
