"""What is committed under results/papers follows from what lies beside it."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.test_commands import ROOT, invoke

PAPERS = ROOT / "results/papers"
README = (PAPERS / "README.md").read_text(encoding="utf-8")
FORMATS = ("csv", "md", "tex")


def command() -> list[str]:
    """The arguments that the README gives for all tables."""
    (found,) = re.findall(r"^qpatchbench (table all (?:.*\\\n)*.*)$", README, re.MULTILINE)
    return shlex.split(found.replace("\\\n", " "))


@pytest.mark.parametrize("form", FORMATS)
def test_the_committed_tables_are_those_of_the_committed_runs(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = invoke(*command(), "--format", form, "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (PAPERS / "tables").glob(f"*.{form}")}
    assert sorted(written) == sorted(committed)
    stale = [name for name, text in written.items() if text != committed[name]]
    assert not stale, "run the command of results/papers/README.md again"


def test_every_run_there_is_read_and_came_from_a_clean_checkout() -> None:
    given = [name for option, name in pairwise(command()) if option == "--run"]
    runs = {Path(name).name for name in given if name.startswith("results/papers/")}
    assert runs == {path.parent.name for path in PAPERS.glob("*/manifest.json")}
    for path in PAPERS.glob("*/manifest.json"):
        text = path.read_text(encoding="utf-8")
        assert '"dirty": false' in text, path


def test_every_suite_of_the_papers_has_its_small_run_there() -> None:
    suites = {path.stem for path in (ROOT / "suites/papers").glob("*.yaml")}
    assert suites == {path.parent.name for path in PAPERS.glob("*/manifest.json")}


def test_every_figure_that_the_reading_shows_is_there() -> None:
    shown = re.findall(r"\(figures/([^)]+)\)", README)
    assert shown
    for name in shown:
        assert (PAPERS / "figures" / name).is_file(), name
