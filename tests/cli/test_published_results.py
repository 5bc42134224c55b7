"""Committed results: the tables of the papers follow from the runs beside them, and folders hold nothing to spare."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from qpatchbench.runs.layout import BIBTEX, SUMS
from qpatchbench.runs.run import read_cells
from tests.cli.test_commands import ROOT, invoke

PAPERS, PROTOCOL = ROOT / "results/papers", ROOT / "results/protocol"
FORMATS = ("csv", "md")
MOST_PICTURES, MOST_BYTES = 6, 150_000


def command(folder: Path, start: str) -> list[str]:
    """The arguments that a folder's README gives for all tables, or for all claims."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^qpatchbench ({start} (?:.*\\\n)*.*)$", text, re.MULTILINE)
    return shlex.split(found.replace("\\\n", " "))


@pytest.mark.parametrize("form", FORMATS)
def test_the_committed_tables_are_those_of_the_committed_runs(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = invoke(*command(PAPERS, "table all"), "--format", form, "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (PAPERS / "tables").glob(f"*.{form}")}
    assert sorted(written) == sorted(committed)
    stale = [name for name, text in written.items() if text != committed[name]]
    assert not stale, "run the command of results/papers/README.md again"


def test_the_committed_claims_are_those_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked = command(PROTOCOL, "claims")
    done = invoke(*[part for part in asked if part not in ("--output", "results/protocol/claims.md")])
    assert done.output == (PROTOCOL / "claims.md").read_text(encoding="utf-8"), "run the command of the README again"


def test_most_claims_are_decided_and_pages_say_how_many() -> None:
    text = (PROTOCOL / "claims.md").read_text(encoding="utf-8")
    (counts,) = re.findall(r"Under the protocol of these runs: (\d+) holds, (\d+) does not hold, (\d+) too close", text)
    holds, fails, close = map(int, counts)
    assert holds + fails >= 30
    said = f"Of the 41 claims {holds} hold under this protocol, {fails} do not, {close} are too close"
    for page in ("README.md", "results/README.md", "docs/results.md"):
        assert said in " ".join((ROOT / page).read_text(encoding="utf-8").split()), page


@pytest.mark.parametrize(("folder", "start"), [(PAPERS, "table all"), (PROTOCOL, "claims")], ids=["papers", "protocol"])
def test_every_run_there_is_told_and_came_from_a_clean_checkout(folder: Path, start: str) -> None:
    given = [name for option, name in pairwise(command(folder, start)) if option == "--run"]
    runs = {Path(name).name for name in given if (ROOT / name).parent == folder}
    there = {path.parent.name for path in folder.glob("*/manifest.json")}
    beside = re.findall(r"^\| `(\w+)/` \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert runs <= there == runs | set(beside)
    for path in folder.glob("*/manifest.json"):
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


def test_every_number_of_the_reading_has_its_row() -> None:
    """`12. `folder` column value, column value: column number`, and the text says the number before `[12]`."""
    text, _, listed = (ROOT / "results/README.md").read_text(encoding="utf-8").partition("## Rows\n")
    rows = re.findall(r"^(\d+)\. `([^`]+)` (.+): (\w+) ([\d.]+)$", listed, re.MULTILINE)
    said = {number: value for value, number in re.findall(r"([\d.]+)\s\[(\d+)\]", text)}
    assert len(rows) == len(said) > 40
    for number, folder, where, column, value in rows:
        wanted = dict(re.findall(r"(\w+) (.+?)(?=, [a-z]\w+ |$)", where))
        wanted = {"transformation": "", **wanted}
        with (ROOT / "results" / folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
            found = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
        assert [f"{float(row[column]):.1f}" for row in found] == [value], (number, wanted)
        assert said[number] == value, number


def tables(heading: str) -> list[list[list[str]]]:
    """The tables of a section of the protocol's README: rows of cells, the header first, the rule left out."""
    text = (PROTOCOL / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in section if part.startswith(heading)]
    blocks = re.findall(r"(?:^\|.*\|\n)+", found, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]
    return [[header, *body] for header, _, *body in rows]


def test_rates_by_steps_are_those_of_the_board() -> None:
    with (PROTOCOL / "cifar_strength/leaderboard.csv").open(encoding="utf-8", newline="") as file:
        board = {(row["attack"], row["defense"], row["target_bits"]): row for row in csv.DictReader(file)}
    shown: dict[tuple[str, str, str], str] = {}
    for header, *body in tables("The worst case")[1:]:
        attack, labels = header[0].split()[0], [label.split()[0] for label in header[2:]]
        for defense, bits, *values in body:
            shown |= {(f"{attack}_{n}_steps", defense, bits): value for n, value in zip(labels, values, strict=True)}
    wanted = {key: [float(row[name]) for name in ("asr", "asr_low", "asr_high")] for key, row in board.items()}
    assert shown == {key: f"{rate:.1f} [{low:.1f}, {high:.1f}]" for key, (rate, low, high) in wanted.items()}


def test_the_wider_network_stands_beside_the_other_as_on_their_boards() -> None:
    boards = []
    for folder in ("cifar", "cifar_wide"):
        with (PROTOCOL / folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
            boards.append([row for row in csv.DictReader(file) if row["defense"] == row["source_defense"] == "qat"])
    (table,) = tables("Is it so on a more accurate network?")
    assert len(table) == 9
    shown = (
        ("lavan", "clean_accuracy"),
        ("lavan", "asr_control"),
        ("lavan", "asr"),
        ("gap", "asr"),
        ("patch_apgd", "asr"),
    )
    for form, bits, *values in table[1:]:
        mode, expected = form.replace("float", "fp"), []
        for attack, column in shown:
            source = (mode, bits) if attack == "patch_apgd" else ("fp", "32")
            for board in boards:
                found = [
                    f"{float(row[column]):.1f}"
                    for row in board
                    if (row["quantization"], row["target_bits"], row["attack"]) == (mode, bits, attack)
                    and (row["source_quantization"], row["source_bits"]) == source
                    and row["patch_height"] == "6"
                ]
                assert len(found) < 2
                expected += found or [""]
        assert values == expected, (form, bits)


def test_what_the_length_of_training_changes_is_that_of_the_cells() -> None:
    """Of seed 0, which the board of the protocol pools with another."""
    cells = [
        [cell for cell in read_cells(PROTOCOL / folder / "cells.parquet") if cell.seed == 0 and not cell.control]
        for folder in ("cifar_training_half", "cifar", "cifar_training_twice")
    ]
    (table,) = tables("Were the defenses trained long enough?")
    assert len(table) == 9
    threats = (("lavan", 6), ("gap", 7), ("patch_apgd", 6))
    for defense, bits, *values in table[1:]:
        rates: dict[str, list[str]] = {"clean": []}
        for run in cells:
            on = [cell for cell in run if (cell.defense, cell.target_bits) == (defense, bits)]
            rates["clean"].append(f"{100 * on[0].n_clean_correct / on[0].n_images:.1f}")
            for attack, size in threats:
                source = (defense, bits) if attack == "patch_apgd" else ("none", "32" if attack == "lavan" else "4")
                (cell,) = [
                    cell
                    for cell in on
                    if (cell.attack, cell.patch_height) == (attack, size)
                    and (cell.source_defense, cell.source_bits) == source
                ]
                rate = cell.counts[0].n_fooled / cell.counts[0].n_eligible
                rates.setdefault(attack, []).append(f"{100 * rate:.1f}")
        assert values == [value for lengths in rates.values() for value in lengths], (defense, bits)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_what_is_made_on_demand_is_not_kept() -> None:
    """LaTeX, PDF and HTML follow from the rest by one command; weights and images are too large.

    So are outcomes of single images, but those of the protocol, on which paired verdicts rest: its folders are entries.
    """
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.splitlines() if not name.startswith("results/entries/")]
    assert names
    entries = {name for name in names if Path(name).name in (SUMS, BIBTEX)}
    assert {(ROOT / name).parent.parent for name in entries} == {PROTOCOL}
    endings = {Path(name).suffix for name in names if name not in entries}
    assert endings <= {".md", ".csv", ".json", ".png", ".parquet"}
    tables = [ROOT / name for name in names if name.endswith(".parquet")]
    assert {path.parent.parent for path in tables} == {PROTOCOL}
    assert sum(path.stat().st_size for path in tables) < 16_000_000
