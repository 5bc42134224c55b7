"""`qpatchbench explain`: from a number to where it comes from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from qpatchbench.errors import QPatchBenchError
from qpatchbench.report.leaderboard.row import read_row
from qpatchbench.report.trace.choose import choose_row
from qpatchbench.runs.run import Run
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.running import ended
from tests.report.made_up_runs import row as record


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))


def test_a_row_of_one_goal_is_traced_to_its_origin(tiny_runs: TinyRuns) -> None:
    folder = tiny_runs.first
    wanted = ("attack=sparse_rs", "source_bits=32", "target_bits=4")
    text = tiny_runs.invoke("explain", str(folder), *wanted).output
    rows = rows_of(folder)
    names = [name.split("=")[0] for name in wanted]
    number = next(n for n, row in enumerate(rows, 1) if [f"{name}={row[name]}" for name in names] == [*wanted])
    assert text == tiny_runs.invoke("explain", str(folder), str(number)).output
    row = rows[number - 1]
    run = Run(folder)
    cell = next(cell for cell in run.cells if all(getattr(cell, name) == row[name] for name in names))
    totals = cell.totals()
    assert text.startswith(
        f"Row {number} of {folder / 'leaderboard.csv'}\n"
        "  sparse_rs 3x3 crafted on fp@32, on resnet20 qat qat@4; fake\n"
        "\nNumber\n"
        f"  asr {row['asr']} %, 95 % interval [{row['asr_low']}, {row['asr_high']}]\n"
        f"  counted again: {totals['n_fooled']} fooled of {totals['n_eligible']} eligible images (right without the "
        f"patch) = {row['asr']} %\n"
        f"  Wilson's interval of these counts: [{row['asr_low']}, {row['asr_high']}]; as in the row\n"
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    (patch,) = [entry for entry in manifest["patches"] if entry["patch"] == cell.patch]
    (checkpoint,) = manifest["checkpoints"]
    network = next(entry for entry in manifest["networks"] if entry["network"] == cell.network)
    share = 100 * network["n_clean_correct"] / 48
    for line in (
        f"Patch of seed 0: {cell.patch}",
        "  crafted on resnet20 qat fp@32, seed 0",
        f"  patches/{cell.patch}.safetensors, SHA-256 {patch['sha256']}",
        f"Network of seed 0: {cell.network}",
        f"  {network['n_clean_correct']} of 48 clean images right: {share:.1f} %",
        f"  checkpoint {checkpoint['key']}: {checkpoint['label']}, SHA-256 {checkpoint['sha256']}",
        "Suite tiny, as typed",
        "  models[0]: resnet20",
        "  defenses[0]: qat",
        "  quantizers[0]: {name: qat, bits: [32, 4]}",
        "  attacks[1]: {name: sparse_rs, size: 3, queries: 3, targets: untargeted}",
        "  transfer: {sources: [32, same]}",
        "Checks",
        "Images that decide, seed 0, goal untargeted",
    ):
        assert f"{line}\n" in text, line
    assert "  name sparse_rs, size 3, targets untargeted, queries 3" in text
    assert " recorded steps, " in text
    assert "    epochs 1, batch_size 32, learning_rate 0.05" in text


def test_the_images_that_decide_are_those_of_the_outcomes(tiny_runs: TinyRuns) -> None:
    text = tiny_runs.invoke("explain", str(tiny_runs.first), "attack=sparse_rs", "target_bits=32").output
    run = Run(tiny_runs.first)
    cell = next(cell for cell in run.cells if cell.attack == "sparse_rs" and cell.target_bits == "32")
    control = next(
        other
        for other in run.cells
        if other.attack == "random" and other.network == cell.network and other.patch_height == 3
    )
    fooled, by_chance = run.outcomes(cell).fooled[0], run.outcomes(control).wrong[0]
    alone = fooled & ~by_chance
    assert f"  fooled by this patch, not by the random one: {int(alone.sum())}" in text
    assert f"  fooled by both: {int((fooled & by_chance).sum())}" in text
    assert f"  not fooled: {int((run.outcomes(cell).eligible[0] & ~fooled).sum())}" in text
    kept = run.stored(cell).ids[int((run.outcomes(cell).eligible[0] & ~fooled).argmax())]
    assert f"{kept} (label " in text


def test_a_row_of_several_goals_says_so_and_explains_its_checks(tiny_runs: TinyRuns) -> None:
    text = tiny_runs.invoke("explain", str(tiny_runs.first), "attack=lavan", "target_bits=32").output
    assert "(right without the patch, label other than the goal)" in text
    assert "; the row's is a bootstrap over seeds, goals and images\n" in text
    assert all(f"    goal {goal}: " in text for goal in (0, 1, 2))
    row = next(row for row in rows_of(tiny_runs.first) if row["attack"] == "lavan" and row["target_bits"] == "32")
    raised = [part.split() for part in row["checks"].split("; ") if part.startswith(("fail", "warn"))]
    for verdict, *names in raised:
        for name in names:
            assert f"  {verdict} {name}: " in text
    assert text.count("    raised if ") == sum(len(names) - 1 for names in raised)
    assert "  passed: " in text


def test_a_number_that_is_not_counted_is_told(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    path = folder / "leaderboard.csv"
    number, row = next((n, row) for n, row in enumerate(rows_of(folder), 1) if row["attack"] == "sparse_rs")
    path.write_text(path.read_text().replace(row["asr_high"], "99.5000"))
    assert "; the row says otherwise\n" in tiny_runs.invoke("explain", str(folder), str(number)).output


def test_folders_of_earlier_versions_are_explained_as_far_as_they_go(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("patches", "checkpoints", "networks", "typed"):
        del manifest[name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = tiny_runs.invoke("explain", str(folder), "1").output
    assert "  the manifest says nothing of it: an earlier version wrote this folder; run the suite again\n" in text
    assert "  the manifest does not name it\n" in text
    assert "Suite" not in text
    assert "Images that decide" in text


ROWS = [
    read_row(record(attack=attack, target_bits=bits, source_bits="4", source_quantization="qat", quantization="qat"))
    for attack in ("lavan", "gap")
    for bits in ("32", "4", "2")
]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["0"], "expected a row in 1..6, or conditions such as target_bits=4, found '0'"),
        (["7"], "expected a row in 1..6, or conditions such as target_bits=4, found '7'"),
        (["-1"], "expected a row in 1..6, or conditions such as target_bits=4, found '-1'"),
        (["lavan"], "expected a row in 1..6, or conditions such as target_bits=4, found 'lavan'"),
        (["attack=lavan", "4"], "expected column=value, for example target_bits=4, found '4'"),
        (
            ["atack=lavan"],
            "atack=lavan: no column 'atack'. Did you mean: attack? Available: agreement, area_percent, ",
        ),
        (["attack=lavn"], "attack=lavn: no row left with attack 'lavn'. Did you mean: lavan? Available: gap, lavan."),
        (["attack=gap", "target_bits=8"], "target_bits=8: no row left with target_bits '8'. Available: 2, 32, 4."),
        (["attack=gap"], "expected one row, found 3: row 4, row 5, row 6. They differ most in target_bits: "),
        (["model=resnet20"], "They differ most in target_bits: target_bits=32, target_bits=4, target_bits=2"),
    ],
)
def test_what_names_no_single_row_is_told_with_the_nearest(wanted: list[str], message: str) -> None:
    with pytest.raises(QPatchBenchError) as caught:
        choose_row(ROWS, wanted)
    assert message in str(caught.value)


def test_an_empty_leaderboard_has_no_rows() -> None:
    with pytest.raises(QPatchBenchError, match="expected a leaderboard with rows, found one without"):
        choose_row([], ["1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN'"),
        (["nowhere"], "Missing argument 'ROW...'"),
        (["nowhere", "1"], "error: nowhere: expected a run folder with manifest.json and"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = ended("explain", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
