"""Committed results: the tables of the papers follow from the runs beside them, and folders hold nothing to spare."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.test_commands import ROOT, invoke

PAPERS = ROOT / "results/papers"
README = (PAPERS / "README.md").read_text(encoding="utf-8")
FORMATS = ("csv", "md")
MOST_PICTURES, MOST_BYTES = 6, 150_000


def command(start: str = "table all") -> list[str]:
    """The arguments that the README gives for all tables, or for all claims."""
    (found,) = re.findall(rf"^qpatchbench ({start} (?:.*\\\n)*.*)$", README, re.MULTILINE)
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


def test_the_committed_claims_are_those_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked = command("claims")
    done = invoke(*[part for part in asked if part not in ("--output", "results/papers/claims.md")])
    assert done.output == (PAPERS / "claims.md").read_text(encoding="utf-8"), "run the command of the README again"
    assert {run for run in asked if run.startswith("results/")} == {
        *(run for run in command() if run.startswith("results/") and run != "results/papers/tables"),
        "results/papers/claims.md",
    }
    small = ROOT / "results/cifar_defenses_small"
    alone = invoke("claims", "--run", small.relative_to(ROOT).as_posix()).output
    assert alone == (small / "claims.md").read_text(encoding="utf-8")


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


def folders() -> list[Path]:
    """Every folder under results with a README, but submitted entries."""
    return sorted(path.parent for path in (ROOT / "results").glob("*/README.md"))


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_a_folder_keeps_the_pictures_that_its_readme_shows(folder: Path) -> None:
    shown = re.findall(r"\]\(((?:plots|figures)/[^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    kept = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.png")}
    assert shown, "a README that shows nothing"
    assert sorted(shown) == sorted(kept)
    assert len(kept) <= MOST_PICTURES
    assert {name: size for name, size in kept.items() if size > MOST_BYTES} == {}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_what_is_made_on_demand_is_not_kept() -> None:
    """LaTeX, PDF and HTML follow from the rest by one command; parquet, weights and images are too large."""
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.splitlines() if not name.startswith("results/entries/")]
    assert names
    endings = {Path(name).suffix for name in names}
    assert endings <= {".md", ".csv", ".json", ".png"}
