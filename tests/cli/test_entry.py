"""`qpatchbench entry`: a folder that stands on its own, and that anybody can verify."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from qpatchbench import __version__
from qpatchbench.report.entries.write import Citation, bibtex, failed_checks
from qpatchbench.report.leaderboard.published import read_board
from qpatchbench.report.leaderboard.row import read_row
from tests.cli.conftest import CopyOf, TinyRuns, committed
from tests.cli.running import ended
from tests.cli.test_commands import ROOT
from tests.cli.test_verify import change_row, forge
from tests.report.made_up_runs import row


def made(runs: TinyRuns, run: Path, output: Path, *options: str) -> str:
    result = runs.invoke("entry", str(run), "--output", str(output), "--author", "Ada Lovelace", *options)
    assert result.exception is None, result.exception
    return result.output


def test_an_entry_is_written_and_verified(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run, output = committed(copy_of(tiny_runs.first)), tmp_path / "entries" / "tiny-one"
    text = made(tiny_runs, run, output, "--url", "https://example.org/tiny", "--author", "Grace Hopper")
    patches = sorted(path.name for path in (run / "patches").iterdir())
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()) == sorted(
        [
            *("SHA256SUMS", "cells.parquet", "entry.bib", "leaderboard.csv", "manifest.json", "outcomes.parquet"),
            *(f"patches/{name}" for name in patches),
        ]
    )
    assert text.startswith(f"{output}: 6 rows, {6 + len(patches)} files, 0.")
    assert text.endswith(f"anybody can check it with: qpatchbench verify {output}\n")
    year = datetime.date.today().year
    plan = json.loads((run / "manifest.json").read_text())["plan"]
    assert (output / "entry.bib").read_text() == (
        "@misc{tiny-one,\n"
        "  author = {Ada Lovelace and Grace Hopper},\n"
        "  title = {{tiny: adversarial patches across bit-widths}},\n"
        f"  year = {{{year}}},\n"
        "  url = {https://example.org/tiny},\n"
        f"  note = {{qpatchbench {__version__}, suite tiny, plan {plan}}},\n"
        "}\n"
    )
    shutil.rmtree(run)
    result = tiny_runs.invoke("verify", str(output))
    assert result.return_value == 3, result.output
    assert "predictions: 14 of 14 cells made again" in result.output
    claims = result.output.partition("claimed, not checked:\n")[2].splitlines()
    # Of a run of uncommitted code the test has said otherwise.
    told = [claim.partition(":")[0] for claim in claims if not claim.startswith("  - times and devices of ")]
    assert told == [
        "  - entry.bib, which names its authors",
        "  - that its suite is the one it is named after",
        "  - git of manifest.json",
    ]
    summed = shutil.which("sha256sum")
    if summed:
        done = subprocess.run([summed, "--check", "--quiet", "SHA256SUMS"], cwd=output, check=False)
        assert done.returncode == 0


def test_an_entry_may_do_without_its_pictures(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run, output = committed(copy_of(tiny_runs.first)), tmp_path / "entry"
    made(tiny_runs, run, output, "--without-pictures")
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted(
        ["SHA256SUMS", "cells.parquet", "entry.bib", "leaderboard.csv", "manifest.json", "outcomes.parquet"]
    )
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["left_out"] == sorted(entry["file"] for entry in manifest["patches"])
    assert {**json.loads((run / "manifest.json").read_text()), "left_out": manifest["left_out"]} == manifest
    count = len(manifest["left_out"])
    result = tiny_runs.invoke("verify", str(output))
    assert result.return_value == 3, result.output
    assert "numbers: every count, rate and hash is as it should be\n" in result.output
    assert "labels: every one is that of the suite\n" in result.output
    assert "predictions: not made again: its patches were left out\n" in result.output
    told = f"  - {count} of {count + 2} files, which were left out; manifest.json has their hashes\n"
    assert told in result.output
    # What is there all the same has to be what it was.
    (output / "patches").mkdir()
    (output / manifest["left_out"][0]).write_bytes(b"another")
    assert tiny_runs.invoke("verify", str(output)).return_value == 1


@pytest.mark.parametrize("name", ["cells.parquet", "outcomes.parquet", "patches/none.safetensors", "../else"])
def test_nothing_else_may_be_left_out(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path, name: str) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "left_out": [name]}))
    (folder / name).unlink(missing_ok=True)
    result = tiny_runs.invoke("verify", str(folder), "--numbers-only")
    assert result.return_value == 1
    assert f"manifest.json, left_out: expected patches and maps that it names, found {name}\n" in result.output


def test_failed_checks_are_listed_and_kept(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run = committed(copy_of(tiny_runs.first))
    text = made(tiny_runs, run, tmp_path / "entry")
    failed = failed_checks(read_board(run / "leaderboard.csv"))
    for check, count in failed.items():
        assert f"  check {check} failed in {count} of 6 rows; they are shown, but not ranked\n" in text
    assert text.count("  check V") == len(failed)
    assert (tmp_path / "entry" / "leaderboard.csv").read_bytes() == (run / "leaderboard.csv").read_bytes()


def test_failed_checks_are_counted_by_row() -> None:
    plain = read_row(row())
    rows = [replace(plain, checks=text) for text in ("fail V2 V13; warn V3", "ok", "fail V2", "warn V2", "", "not run")]
    assert failed_checks(rows) == {"V2": 2, "V13": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("entry.bib", "entry.bib: expected SHA-256 "),
        ("leaderboard.csv", "leaderboard.csv: expected SHA-256 "),
        ("manifest.json", "manifest.json: expected SHA-256 "),
    ],
)
def test_every_file_of_an_entry_is_hashed(
    tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path, name: str, message: str
) -> None:
    output = tmp_path / "entry"
    made(tiny_runs, committed(copy_of(tiny_runs.first)), output)
    with (output / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    result = tiny_runs.invoke("verify", str(output), "--numbers-only")
    assert result.return_value == 1
    assert f" wrong\n  - {message}" in result.output
    assert "named by SHA256SUMS, found " in result.output


def test_files_too_many_and_too_few_are_named(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    output = tmp_path / "entry"
    made(tiny_runs, committed(copy_of(tiny_runs.first)), output)
    (output / "more.txt").write_text("more")
    (output / "entry.bib").unlink()
    result = tiny_runs.invoke("verify", str(output), "--numbers-only")
    assert result.return_value == 1
    assert "SHA256SUMS: expected a line for every file of the entry, found none for more.txt\n" in result.output
    assert "entry.bib: expected a file, since SHA256SUMS names it, found none\n" in result.output
    (output / "SHA256SUMS").write_text("no hash\n")
    broken = tiny_runs.invoke("verify", str(output), "--numbers-only")
    assert broken.return_value == 1
    assert "SHA256SUMS: expected lines of a hash, two blanks and a file name, found 'no hash'\n" in broken.output


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"partial": True}, "expected a whole run, found a partial one: its images were cut by --limit"),
        ({"resolved": {"limit": 5}}, "expected a whole run, found a partial one: its images were cut by --limit"),
        ({"complete": False}, "expected a complete run, found 0 failed jobs"),
        (
            {"git": {"revision": "a" * 40}},
            "expected committed code, found uncommitted changes to revision aaaaaaaaaaaa",
        ),
        ({"git": {"revision": "", "dirty": False}}, "expected the revision of a checkout, found none"),
        (
            {"git": {"revision": "a" * 40, "dirty": True}},
            "expected committed code, found uncommitted changes to revision aaaaaaaaaaaa; commit them and run the "
            "suite again with another --output",
        ),
        (
            {"jobs": [{"kind": "patch", "key": "0", "label": "craft it", "dirty": True}]},
            "found 1 jobs that were computed with uncommitted changes, the first: craft it; run the suite with --fresh",
        ),
    ],
)
def test_a_run_that_is_no_entry_is_refused_and_nothing_is_written(
    tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path, facts: dict[str, object], message: str
) -> None:
    run = committed(copy_of(tiny_runs.first))
    manifest = json.loads((run / "manifest.json").read_text()) | facts
    (run / "manifest.json").write_text(json.dumps(manifest))
    result = tiny_runs.invoke("entry", str(run), "--output", str(tmp_path / "entry"), "--author", "A")
    assert message in str(result.exception)
    assert str(result.exception).startswith(f"{run} is no entry:\n  - manifest.json: ")
    assert not (tmp_path / "entry").exists()


def test_a_failed_or_partial_cell_is_refused_whatever_the_manifest_says(
    tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path
) -> None:
    for field, value, message in (
        ("status", "error", "expected a complete run, found 1 failed jobs: cell "),
        ("partial", True, "expected a whole run, found a partial one"),
    ):
        run = committed(copy_of(tiny_runs.first))
        change_row(run / "cells.parquet", 0, lambda row: row.update({field: value}))  # noqa: B023 (called at once)
        forge(run, "cells.parquet")
        result = tiny_runs.invoke("entry", str(run), "--output", str(tmp_path / "entry"), "--author", "A")
        assert message in str(result.exception)
        assert not (tmp_path / "entry").exists()
        shutil.rmtree(run)


def test_numbers_that_do_not_hold_are_refused(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run = committed(copy_of(tiny_runs.first))
    board = run / "leaderboard.csv"
    board.write_text(board.read_text().replace("same-network", "independent", 1))
    result = tiny_runs.invoke("entry", str(run), "--output", str(tmp_path / "entry"), "--author", "A")
    assert "leaderboard.csv, row 1 (lavan from 32 on resnet20 qat fp@32), column lineage: expected same-network" in str(
        result.exception
    )


def test_a_folder_that_holds_something_is_left_alone(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run = committed(copy_of(tiny_runs.first))
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "mine.txt").write_text("mine")
    for name, found in (("entry", "mine.txt"), ("entry/mine.txt", "a file")):
        output = tmp_path / name
        result = tiny_runs.invoke("entry", str(run), "--output", str(output), "--author", "A")
        assert f"{output}: expected a new or empty folder, found {found}" in str(result.exception)
    assert (tmp_path / "entry" / "mine.txt").read_text() == "mine"


def test_a_citation_is_valid_bibtex() -> None:
    citation = Citation(("A {B}", "C_D"), "100 % of A & B", "", 2024)
    assert bibtex("my entry!", {"suite": "s_1", "plan": "p", "versions": {"qpatchbench": "1"}}, citation) == (
        "@misc{my_entry,\n"
        "  author = {A \\{B\\} and C\\_D},\n"
        "  title = {{100 \\% of A \\& B}},\n"
        "  year = {2024},\n"
        "  note = {qpatchbench 1, suite s\\_1, plan p},\n"
        "}\n"
    )


def test_every_submitted_entry_holds(tiny_runs: TinyRuns) -> None:
    """Folders under results/entries, by their numbers and hashes: no weights are committed to predict again with."""
    entries = sorted(path for path in (ROOT / "results" / "entries").glob("*") if path.is_dir())
    failed = {}
    for entry in entries:
        result = tiny_runs.invoke("verify", str(entry), "--numbers-only")
        if result.return_value not in (0, 3) or not (entry / "SHA256SUMS").is_file():
            failed[entry.name] = result.output
    assert failed == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN'"),
        (["nowhere", "--author", "A"], "Missing option '--output'"),
        (["nowhere", "--output", "out"], "Missing option '--author'"),
        (
            ["nowhere", "--output", "out", "--author", "A"],
            "error: nowhere: expected a run folder or an entry with manifest.json, found no such folder",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = ended("entry", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
