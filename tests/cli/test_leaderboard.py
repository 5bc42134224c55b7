"""`qpatchbench leaderboard`: the board over runs, its exit codes, and the tables of committed documents."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from qpatchbench.report.standings.filled import BEGINNING
from tests.cli.conftest import TinyRuns
from tests.cli.test_commands import ROOT, invoke

DEFENSES = str(ROOT / "results/cifar_defenses_small")
FILLED = [path for path in sorted((ROOT / "results").rglob("*.md")) if BEGINNING in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("form", ["md", "csv", "tex", "json", "html"])
def test_every_format_has_every_row(form: str) -> None:
    done = invoke("leaderboard", DEFENSES, "--format", form)
    assert done.exit_code == 0, done.output
    assert done.output.count("triqdef") >= 10


def test_the_page_of_several_runs_leads_to_the_rows_of_each(tmp_path: Path) -> None:
    page = tmp_path / "board.html"
    runs = [str(ROOT / "results" / name) for name in ("attack_ladder", "cifar_transfer_small")]
    done = invoke("leaderboard", *runs, "--format", "html", "--output", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    logs = [len(Path(run, "leaderboard.csv").read_text(encoding="utf-8").splitlines()) - 1 for run in runs]
    assert len(re.findall(r'<tr id="log-\d+"', text)) == sum(logs)
    anchors = set(re.findall(r' id="([^"]+)"', text))
    links = set(re.findall(r' href="#([^"]+)"', text))
    assert links <= anchors
    # A row of the second run points behind all rows of the first.
    (alexnet,) = re.findall(
        r'<tr id="(board-\d+)"[^>]*data-model="alexnet"[^>]*>.*?<td class="number" data-v="2">', text
    )[:1]
    facts = text[text.index(f'id="{alexnet}-more"') :]
    numbers = [int(number) for number in re.findall(r'href="#log-(\d+)"', facts[: facts.index("</dl>")])]
    assert numbers
    assert min(numbers) > logs[0]


def test_the_log_of_cells_is_the_committed_one() -> None:
    done = invoke("leaderboard", DEFENSES, "--cells", "--format", "csv")
    committed = list(csv.DictReader(Path(DEFENSES, "leaderboard.csv").read_text(encoding="utf-8").splitlines()))
    shown = list(csv.DictReader(done.output.splitlines()))
    assert len(shown) == len(committed)
    assert [each["asr"] for each in shown] == [each["asr"] for each in committed]


@pytest.mark.parametrize("page", FILLED, ids=lambda path: path.parent.name)
def test_committed_tables_are_those_of_the_committed_runs(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / page.name
    shutil.copytree(page.parent, copy.parent, ignore=shutil.ignore_patterns("plots"))
    assert invoke("leaderboard", "--fill", str(copy)).exit_code == 0
    assert copy.read_bytes() == page.read_bytes(), f"run: qpatchbench leaderboard --fill {page.relative_to(ROOT)}"


def test_a_table_may_be_of_cells_and_of_some_of_them(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGINNING}{tiny_runs.first} --cells --bits 4 -->\nold\n<!-- end of leaderboard -->\n")
    assert tiny_runs.invoke("leaderboard", "--fill", str(page)).exit_code == 0
    shown = tiny_runs.invoke("leaderboard", str(tiny_runs.first), "--cells", "--bits", "4").output
    assert page.read_text().splitlines()[2:-2] == shown.splitlines()
    assert {line.split("|")[7].strip() for line in shown.splitlines()[2:]} == {"4"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--cells", "--columns", "clean"), "--cells: expected nothing that it has no use for, found --columns"),
        (("--cells", "--size", "3x3", "--rank-by", "worst"), "found --size, --rank-by"),
        (("--cells", "--defenses", "pbatt"), "unknown defense 'pbatt'"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    tiny_runs: TinyRuns, tmp_path: Path, options: tuple[str, ...], found: str
) -> None:
    assert found in str(tiny_runs.invoke("leaderboard", str(tiny_runs.first), *options).exception)
    page = tmp_path / "page.md"
    page.write_text(f"{BEGINNING}{tiny_runs.first} {shlex.join(options)} -->\n<!-- end of leaderboard -->\n")
    assert found in str(tiny_runs.invoke("leaderboard", "--fill", str(page)).exception)


def test_a_file_that_is_filled_takes_no_other_options(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGINNING}{DEFENSES} --format csv -->\n<!-- end of leaderboard -->\n")
    given: tuple[tuple[str, ...], ...] = ((), ("--bits", "4"))
    for options, found in zip(given, ("a table in a file: {}--format", "--fill: {}--bits"), strict=True):
        done = invoke("leaderboard", "--fill", str(page), *options)
        assert found.format("expected nothing that it has no use for, found ") in str(done.exception)


def test_some_document_has_such_a_table() -> None:
    assert ROOT / "results/cifar_defenses_small/README.md" in FILLED


def test_seeds_of_two_runs_are_pooled_and_paired(tiny_runs: TinyRuns) -> None:
    done = tiny_runs.invoke("leaderboard", str(tiny_runs.first), str(tiny_runs.second), "--format", "json")
    rows = json.loads(done.output)["rows"]
    assert [(each["bits"], each["seeds"]) for each in rows] == [("32", 2), ("4", 2)]
    for each in rows:
        assert each["rates"]["clean"]["trials"] == 96
        assert each["rates"]["worst"]["at_least"] is False
        # The worst case over all patches is no less than any of them of that size.
        same = [rate for rate in each["rates"].values() if rate["attack"] and rate["size"] == each["size"]]
        assert same


def test_a_board_that_got_worse_ends_with_four(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run, baseline = str(tiny_runs.first), tmp_path / "baseline.json"
    assert tiny_runs.invoke("leaderboard", run, "--format", "json", "--output", str(baseline)).return_value == 0
    same = tiny_runs.invoke("leaderboard", run, "--fail-if-worse", str(baseline))
    assert same.return_value == 0
    assert re.search(r"\d+ rates compared with .*, 0 worse", same.stderr)
    content = json.loads(baseline.read_text(encoding="utf-8"))
    for each in content["rows"]:
        assert each["rates"]["worst"]["value"] > 20
        each["rates"]["worst"] |= {"value": 0.0, "low": 0.0, "high": 0.1}
    baseline.write_text(json.dumps(content), encoding="utf-8")
    worse = tiny_runs.invoke("leaderboard", run, "--fail-if-worse", str(baseline))
    assert worse.return_value == 4
    assert "worse: resnet20 qat fp@32, worst case: 0.0 % in the baseline" in worse.stderr


def test_names_that_nothing_has_are_refused(tiny_runs: TinyRuns) -> None:
    done = tiny_runs.invoke("leaderboard", str(tiny_runs.first), "--columns", "whitebox")
    assert "Did you mean: white_box?" in str(done.exception)
    done = tiny_runs.invoke("leaderboard", str(tiny_runs.first), "--defenses", "qatt")
    assert "Did you mean: qat?" in str(done.exception)
    done = tiny_runs.invoke("leaderboard", str(tiny_runs.root / "nothing"))
    assert "expected a run folder" in str(done.exception)
