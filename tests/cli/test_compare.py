"""`qpatchbench compare`: two runs row by row, and what differs in their manifests."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import mcnemar_exact
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.running import ended
from tests.cli.test_commands import ROOT, invoke

LADDER = str(ROOT / "results" / "attack_ladder")


def compared(runs: TinyRuns, a: Path | str, b: Path | str) -> list[dict[str, str]]:
    result = runs.invoke("compare", str(a), str(b), "--format", "csv")
    assert result.exception is None, result.exception
    return list(csv.DictReader(result.output.splitlines()))


def test_a_run_does_not_differ_from_itself(tiny_runs: TinyRuns) -> None:
    rows = compared(tiny_runs, tiny_runs.first, tiny_runs.first)
    assert [row["quantity"] for row in rows].count("clean_accuracy") == 2
    assert len(rows) == 8
    for row in rows:
        assert row["status"] == "compared"
        assert row["pairing"] == "paired"
        assert {row[name] for name in ("difference", "difference_low", "difference_high")} == {"0.0000"}
        assert (row["p"], row["p_holm"], row["verdict"], row["seeds"]) == ("1", "1", "", "")
    text = tiny_runs.invoke("compare", str(tiny_runs.first), str(tiny_runs.first)).output
    assert "## What differs in the manifests\n\nNothing.\n" in text
    assert (
        "8 comparisons, 0 of which differ at 5 % after Holm's correction for all of them; p < 0.05 without it: 0."
        in text
    )
    assert "8 are paired on the same images.\n" in text
    assert "Unpaired" not in text


def test_another_seed_is_paired_on_the_same_images(tiny_runs: TinyRuns) -> None:
    rows = compared(tiny_runs, tiny_runs.first, tiny_runs.second)
    assert len(rows) == 8
    assert {row["pairing"] for row in rows} == {"paired"}
    assert {row["seeds"] for row in rows} == {"0 / 1"}
    runs = Run(tiny_runs.first), Run(tiny_runs.second)
    for row in rows:
        if row["quantity"] != "asr" or row["attack"] != "sparse_rs":
            continue
        names = ("attack", "source_bits", "target_bits")
        found = [
            run.outcomes(next(cell for cell in run.cells if all(getattr(cell, name) == row[name] for name in names)))
            for run in runs
        ]
        both = found[0].eligible & found[1].eligible
        only = [int((both & found[i].fooled & ~found[1 - i].fooled).sum()) for i in (0, 1)]
        assert [int(row["only_a"]), int(row["only_b"])] == only
        assert float(row["p"]) == pytest.approx(mcnemar_exact(*only), rel=1e-2)
        rates = [100 * each.fooled.sum() / each.eligible.sum() for each in found]
        assert float(row["difference"]) == pytest.approx(rates[1] - rates[0], abs=1e-3)
        assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
    text = tiny_runs.invoke("compare", str(tiny_runs.first), str(tiny_runs.second)).output
    assert "| suite.seeds | 0 | 1 |\n" in text
    assert "Seeds differ (0 / 1): an interval over images says nothing of what another seed would give." in text


def test_the_difference_is_signed_and_tested_both_ways(tiny_runs: TinyRuns) -> None:
    there = compared(tiny_runs, tiny_runs.first, tiny_runs.second)
    back = compared(tiny_runs, tiny_runs.second, tiny_runs.first)
    for one, other in zip(there, back, strict=True):
        assert float(one["difference"]) == -float(other["difference"])
        assert float(one["difference_low"]) == pytest.approx(-float(other["difference_high"]), abs=1e-3)
        assert (one["p"], one["p_holm"]) == (other["p"], other["p_holm"])
        assert (one["only_a"], one["only_b"]) == (other["only_b"], other["only_a"])


def test_without_outcomes_rows_are_unpaired_and_it_is_said_why(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    published = copy_of(tiny_runs.first)
    for name in ("cells.parquet", "outcomes.parquet"):
        (published / name).unlink()
    rows = compared(tiny_runs, tiny_runs.first, published)
    assert {row["pairing"] for row in rows} == {f"unpaired: no outcomes of single images in {published}"}
    assert {row["difference"] for row in rows} == {"0.0000"}
    assert all(float(row["difference_low"]) < 0 < float(row["difference_high"]) for row in rows if row["attack"])
    text = tiny_runs.invoke("compare", str(tiny_runs.first), str(published)).output
    assert "0 are paired on the same images. Unpaired, from the rows' own intervals as if the runs were inde" in text


def test_other_images_other_attacks_and_other_fields_are_told(tiny_runs: TinyRuns) -> None:
    suite = tiny_runs.root / "fewer.yaml"
    text = (tiny_runs.root / "tiny.yaml").read_text()
    suite.write_text(text.replace("sparse_rs, size: 3", "sparse_rs, size: 2"))
    output = tiny_runs.root / "fewer"
    options = ("--limit", "30", "--display", "none")
    assert tiny_runs.invoke("run", str(suite), "--output", str(output), *options).return_value == 0
    rows = compared(tiny_runs, tiny_runs.first, output)
    assert {row["pairing"] for row in rows if row["status"] == "compared"} == {"unpaired: other images (48 and 30)"}
    assert [row["status"] for row in rows].count("only in A") == 3
    assert [row["status"] for row in rows].count("only in B") == 3
    text = tiny_runs.invoke("compare", str(tiny_runs.first), str(output)).output
    assert "| suite.attacks\\[sparse" not in text, "brackets are no markup in a table"
    assert "| suite.attacks[sparse\\_rs].size | 3 | 2 |\n" in text
    assert "| suite.limit | absent | 30 |\n" in text
    assert "| partial | False | True |\n" in text
    assert re.search(r"\| dataset_fingerprint", text) is None, "the images of the dataset are the same"
    assert "## Rows only in A: 3\n\n- sparse_rs 3x3 from fp@32 on resnet20 qat fp@32 (fake)\n" in text


def test_other_places_are_not_paired_unless_the_attack_chose_them(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    path = folder / "outcomes.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("row")
    pq.write_table(table.set_column(place, "row", pc.add(table["row"], pa.scalar(1, pa.int16()))), path)
    rows = compared(tiny_runs, tiny_runs.first, folder)
    assert {row["pairing"] for row in rows if row["attack"] == "lavan"} == {"unpaired: other places on the images"}
    assert {row["pairing"] for row in rows if row["attack"] != "lavan"} == {"paired"}


def test_published_runs_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "compared.md"
    assert invoke("compare", LADDER, LADDER, "--output", str(path)).output == f"{path}\n"
    assert path.read_text().startswith(f"# Comparison of two runs\n\n- A: {LADDER}\n- B: {LADDER}\n")


def test_no_row_in_common(tiny_runs: TinyRuns) -> None:
    text = tiny_runs.invoke("compare", LADDER, str(tiny_runs.first)).output
    assert "0 comparisons, 0 of which differ" in text
    rows = len((Path(LADDER) / "leaderboard.csv").read_text().splitlines()) - 1
    assert f"## Rows only in A: {rows}\n" in text


def test_a_damaged_outcome_stops_the_comparison(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps([manifest]))
    result = tiny_runs.invoke("compare", str(folder), str(tiny_runs.first))
    assert "manifest.json: expected a JSON object, found list" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN_A'"),
        (["nowhere"], "expected RUN_A RUN_B, or RUN_A --defenses A B"),
        (["nowhere", LADDER], "error: nowhere: expected a run folder with manifest.json and"),
        ([LADDER, LADDER, "--format", "html"], "'html' is not one of 'md', 'csv'"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = ended("compare", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_two_defenses_of_one_run_are_compared_row_by_row() -> None:
    folder = str(ROOT / "results/cifar_defenses_small")
    done = invoke("compare", folder, "--defenses", "qat", "pbat", "--format", "csv")
    assert done.exception is None, done.exception
    rows = list(csv.DictReader(done.output.splitlines()))
    white_box = next(
        row for row in rows if (row["attack"], row["source_bits"], row["target_bits"]) == ("patch_apgd", "4", "4")
    )
    assert (white_box["a"], white_box["b"], white_box["verdict"]) == ("51.2195", "36.7925", "A higher")
    clean = next(row for row in rows if (row["quantity"], row["target_bits"]) == ("clean_accuracy", "2"))
    assert (clean["a"], clean["b"]) == ("66.4000", "70.4000")
    assert {row["status"] for row in rows} == {"compared"}
    text = invoke("compare", folder, "--defenses", "qat", "pbat").output
    assert text.startswith(f"# Comparison of two defenses in {folder}\n\n- A: qat\n- B: pbat\n")
    assert "manifests" not in text


def test_two_defenses_of_a_whole_run_are_paired(simulated: Path) -> None:
    done = invoke("compare", str(simulated), "--defenses", "qat", "qat", "--format", "csv")
    rows = list(csv.DictReader(done.output.splitlines()))
    assert rows
    assert {row["pairing"] for row in rows if row["status"] == "compared"} == {"paired"}
    assert {float(row["difference"]) for row in rows if row["status"] == "compared"} == {0.0}


def test_what_to_compare_is_said_once(simulated: Path) -> None:
    for arguments in ([str(simulated)], [str(simulated), str(simulated), "--defenses", "qat", "none"]):
        assert "expected RUN_A RUN_B, or RUN_A --defenses A B" in str(invoke("compare", *arguments).exception)
    assert "Did you mean: qat?" in str(invoke("compare", str(simulated), "--defenses", "qatt", "none").exception)
