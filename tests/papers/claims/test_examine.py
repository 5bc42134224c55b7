"""Verdicts on claims in run folders whose outcomes were made up so that each is reached."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qpatchbench.papers.claims.claim_texts import COLUMNS, as_csv, as_latex, as_markdown
from qpatchbench.papers.claims.examine import Finding, decided, examine, examine_all
from qpatchbench.papers.claims.hypotheses import claims
from qpatchbench.papers.claims.select import ClaimSource
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import read_folder
from qpatchbench.report.page.tables import whole_grid
from qpatchbench.runs.layout import LEADERBOARD
from qpatchbench.runs.records import Check
from qpatchbench.runs.run import Run
from qpatchbench.statistics.estimates import Estimate, compare, mean, widened
from qpatchbench.statistics.intervals import paired_difference, wilson
from tests.report.run_folders import Folder

N = 200
FULL: Mapping[str, Any] = {
    "dataset_note": "cifar10",
    "images": {"evaluation": 10_000},
    "device": "cuda, NVIDIA A100",
    "resolved": {
        "models": [{"name": "resnet56", "weights": "train"}],
        "training": {"epochs": 200},
        "dataset": {"name": "cifar10", "train_images": None},
    },
}
OWN_32: Mapping[str, Any] = {"source_bits": "32", "source_quantization": "fp"}
POOL: Mapping[str, Any] = {"source_defense": "none", **OWN_32}
CLAIMS = {claim.id: claim for claim in claims()}


def new(path: Path, **manifest: object) -> Folder:
    return Folder(path / "run", np.zeros(N, np.int32), {**FULL, **manifest})


def add(folder: Folder, fooled: int, *, first: int = 0, wrong: int = 0, **facts: object) -> None:
    """A patch that fools `fooled` images from number `first` on; the last `wrong` are wrong without it."""
    clean = np.zeros(N, int)
    clean[N - wrong :] = 1
    patched = clean.copy()
    patched[first : first + fooled] = 2
    network = {"dataset": "cifar10", "model": "resnet56", "patch_height": 6, "patch_width": 6, "image_height": 32,
               "image_width": 32, "goal_kind": "untargeted"}  # fmt: skip
    folder.add(clean, {"untargeted": patched}, (), **{**network, **facts})


def result(folder: Folder, claim: str) -> Finding:
    return examine(CLAIMS[claim], [ClaimSource(read_folder(folder.write()))])


def effect(found: Finding) -> Estimate:
    assert found.decisive is not None
    return found.decisive.effect


@pytest.mark.parametrize(
    ("fooled", "verdict", "leans"),
    [(180, "holds", "towards it"), (100, "does not hold", "against it"), (142, "cannot tell", "towards it"),
     (138, "cannot tell", "against it")],
)  # fmt: skip
def test_a_level_has_wilsons_interval(tmp_path: Path, fooled: int, verdict: str, leans: str) -> None:
    folder = new(tmp_path)
    add(folder, fooled, target_bits="2", **OWN_32)
    found = result(folder, "qadtr-transfer")
    assert (found.verdict, found.leans) == (verdict, leans)
    assert found.reason == ("the interval covers 70" if verdict == "cannot tell" else "")
    low, high = (100 * bound for bound in wilson(fooled, N))
    assert (effect(found).value, effect(found).low, effect(found).high) == pytest.approx(
        (fooled / 2, low, high), abs=1e-3
    )
    assert found.method == "intervals of the leaderboard"


def test_every_group_has_to_agree(tmp_path: Path) -> None:
    """LaVAN above 70 %, GAP not: what table 2 prints."""
    folder = new(tmp_path)
    add(folder, 180, target_bits="2", **OWN_32)
    add(folder, 90, target_bits="2", attack="gap", **OWN_32)
    found = result(folder, "qadtr-transfer")
    assert found.verdict == "does not hold"
    assert found.decisive is not None
    assert found.decisive.name == ("cifar10", "resnet56", "gap")
    assert "the worst of 2 groups, which go from 45.0 to 90.0; 1 as claimed and 1 not" in found.here
    assert [each.id for each in found.claim.contradictions] == ["T02"]
    low, _ = wilson(90, N)
    assert effect(found).low == pytest.approx(45 - (45 - 100 * low) * 2.241403 / 1.959964, abs=1e-3)


def unseen(folder: Folder, defense: str, fooled: int, bits: str = "4", **facts: Any) -> None:  # noqa: ANN401 (facts of a cell)
    add(folder, fooled, defense=defense, target_bits=bits, **{"seen": "unseen", **POOL, **facts})


@pytest.mark.parametrize(
    ("mine", "theirs", "points", "relative"),
    [(40, 146, "holds", "holds"), (20, 80, "does not hold", "holds"), (120, 146, "does not hold", "does not hold"),
     (64, 146, "cannot tell", "holds"), (86, 146, "does not hold", "cannot tell")],
)  # fmt: skip
def test_a_difference_in_points_and_as_a_share(
    tmp_path: Path, mine: int, theirs: int, points: str, relative: str
) -> None:
    folder = new(tmp_path)
    unseen(folder, "triqdef", mine)
    unseen(folder, "pbat", theirs)
    found = result(folder, "triqdef-unseen-pbat-points")
    assert found.verdict == points
    assert found.method == "paired bootstrap on the same images"
    assert effect(found).value == pytest.approx((mine - theirs) / 2)
    first, second, all_images = np.zeros((3, 1, 1, N), bool)
    first[..., :mine], second[..., :theirs], all_images[:] = True, True, True
    expected = paired_difference(first, all_images, second, all_images)
    assert (effect(found).low, effect(found).high) == pytest.approx([100 * bound for bound in expected])
    share = examine(CLAIMS["triqdef-unseen-pbat-relative"], [ClaimSource(read_folder(folder.path))])
    assert share.verdict == relative
    assert effect(share).value == pytest.approx(mine / theirs)


def test_without_outcomes_rows_count_as_independent(tmp_path: Path) -> None:
    folder = new(tmp_path)
    unseen(folder, "triqdef", 40)
    unseen(folder, "pbat", 146)
    paired = effect(result(folder, "triqdef-unseen-pbat-points"))
    board = whole_grid(Leaderboard(Run(folder.path)).rows).csv()
    for name in ("cells.parquet", "outcomes.parquet"):
        (folder.path / name).unlink()
    (folder.path / LEADERBOARD).write_text(board)
    found = examine(CLAIMS["triqdef-unseen-pbat-points"], [ClaimSource(read_folder(folder.path))])
    assert found.method == "from counts, as if independent"
    assert effect(found).value == pytest.approx(paired.value)
    # Both fool the same images first, so that the paired interval is the narrower one.
    assert effect(found).low < paired.low < paired.high < effect(found).high


def test_bit_widths_are_groups_and_patches_are_averaged(tmp_path: Path) -> None:
    folder = new(tmp_path)
    for bits, (one, other) in {"4": (20, 40), "2": (10, 20)}.items():
        unseen(folder, "triqdef", one, bits)
        unseen(folder, "triqdef", other, bits, attack="gap")
        unseen(folder, "pbat", 160, bits)
        unseen(folder, "pbat", 180, bits, attack="gap")
        unseen(folder, "pbat", 0, bits, attack="gap", patch_height=8, patch_width=8)  # TriQDef has no such row
    found = result(folder, "triqdef-unseen-pbat-points")
    assert found.verdict == "holds"
    assert [group.name[-1] for group in found.groups] == ["2", "4"]
    for group, expected in zip(found.groups, ([-77.5, 7.5, 85], [-70, 15, 85]), strict=True):
        assert [group.effect.value, group.rows, group.baseline] == pytest.approx(expected)
    assert found.method == "paired bootstrap on the same images; 2 intervals that hold together"


def test_some_group_is_enough_for_up_to(tmp_path: Path) -> None:
    folder = new(tmp_path)
    for bits, mine in (("32", 150), ("2", 20)):
        unseen(folder, "qadtr", mine, bits, seen="seen", quantization="fp" if bits == "32" else "qat")
        unseen(folder, "pbat", 150, bits, seen="seen", quantization="fp" if bits == "32" else "qat")
    assert result(folder, "qadtr-up-to-pbat").verdict == "holds"
    found = result(folder, "qadtr-over-pbat")
    assert found.verdict == "does not hold"
    assert found.decisive is not None
    assert (found.decisive.name[-1], found.decisive.effect.value) == ("32", 0)


def test_seen_and_unseen_patches_need_not_be_alike(tmp_path: Path) -> None:
    folder = new(tmp_path)
    unseen(folder, "pbat", 60, seen="seen")
    unseen(folder, "pbat", 160, attack="gap", patch_height=8, patch_width=8)
    found = result(folder, "qadtr-pbat-unseen")
    assert found.verdict == "holds"
    assert effect(found).value == pytest.approx(50)
    assert result(folder, "triqdef-pbat-unseen").verdict == "holds"


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "holds"), (40, "does not hold"), (6, "cannot tell")])
def test_clean_accuracy_is_one_of_networks(tmp_path: Path, wrong: int, verdict: str) -> None:
    """However many patches were evaluated on a network, and from whatever source."""
    folder = new(tmp_path)
    for attack in ("lavan", "gap"):
        add(folder, 5, defense="qat", attack=attack, wrong=4, **OWN_32)
    add(folder, 5, defense="triqdef", wrong=wrong, attack="dpr", seen="seen", **POOL)
    found = result(folder, "triqdef-clean")
    assert found.verdict == verdict
    assert effect(found).value == pytest.approx((4 - wrong) / 2)
    assert found.groups[0].n_rows == 2


def test_ablations_are_recognised_by_their_fields(tmp_path: Path) -> None:
    defenses = [{"name": "qadtr"}, {"name": "qadtr", "label": "plain", "gradient_inconsistency": "none"}]
    folder = new(tmp_path, resolved={**FULL["resolved"], "defenses": defenses})
    add(folder, 60, defense="qadtr")
    add(folder, 120, defense="plain")
    assert result(folder, "qadtr-gir").verdict == "holds"
    assert result(folder, "qadtr-gir").here.startswith(
        "dataset cifar10, model resnet56, target_bits 4, seen none: asr 60.0 % against 30.0 %, 30.0 points ["
    )
    found = result(folder, "qadtr-dbwt")
    assert (found.verdict, found.reason) == (
        "not measured", "no row with defense qadtr with switching fixed; there: plain, qadtr",
    )  # fmt: skip


def test_moved_patches_stand_against_the_same_patch_unmoved(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 160, target_bits="8", **OWN_32)
    add(folder, 158, target_bits="8", transformation="shift 2,2", cell="1" * 16, **OWN_32)
    add(folder, 100, target_bits="8", transformation="rotation 30", cell="2" * 16, **OWN_32)
    assert result(folder, "qadtr-shift").verdict == "holds"
    found = result(folder, "qadtr-rotation")
    assert found.verdict == "does not hold"
    assert effect(found).value == pytest.approx(-30)


def test_a_moved_patch_is_another_one_where_a_claim_does_not_ask_for_it(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 180, target_bits="2", **OWN_32)
    add(folder, 20, target_bits="2", transformation="rotation 30", cell="1" * 16, **OWN_32)
    assert effect(result(folder, "triqdef-transfer")).value == pytest.approx(90)


def test_fewer_bits_are_compared_on_common_images(tmp_path: Path) -> None:
    """The last 40 images are wrong at 2 bits; the 32-bit patch fools 50 of the other 160 and 20 of those."""
    folder = new(tmp_path)
    add(folder, 70, first=110, target_bits="32", quantization="fp", **OWN_32)
    add(folder, 20, target_bits="2", wrong=40, **OWN_32)
    found = result(folder, "qadtr-fewer-bits")
    assert found.decisive is not None
    assert [found.decisive.rows, found.decisive.baseline] == pytest.approx([100 * 20 / 160, 100 * 50 / 160])
    at_2, at_32, common = np.zeros((3, 1, 1, N), bool)
    at_2[..., :20], at_32[..., 110:160], common[..., :160] = True, True, True
    expected = [100 * bound for bound in paired_difference(at_2, common, at_32, common)]
    assert [effect(found).low, effect(found).high] == pytest.approx(expected)


def test_another_protocol_cannot_tell_as_published_but_decides_for_itself(tmp_path: Path) -> None:
    folder = new(tmp_path, images={"evaluation": 500}, dataset_note="cifar10 (jpeg)")
    add(folder, 180, target_bits="2", model="alexnet", **OWN_32)
    (found,) = decided([result(folder, "triqdef-transfer")])
    assert (found.verdict, found.under) == ("cannot tell", "holds")
    assert found.reason == (
        "architecture: alexnet instead of resnet20 or resnet56 or vgg16 or vgg19; images: cifar10 (jpeg); "
        "500 of 10,000 test images"
    )


def test_a_failed_check_cannot_tell(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 180, target_bits="2", **OWN_32)
    (cell,) = folder.cells
    folder.cells[0] = cell.model_copy(update={"checks": (Check(id="V6", verdict="fail"),)})
    (found,) = decided([result(folder, "triqdef-transfer")])
    assert (found.reason, found.under) == ("checks: fail V6", "")


def test_a_row_that_fails_a_check_decides_nothing_beside_one_that_passes(tmp_path: Path) -> None:
    """V2 says that a patch is no better than noise: a finding; V6 that the network is: none."""
    for check, name, verdict in (("V6", "lavan", "holds"), ("V2", None, "does not hold")):
        folder = new(tmp_path / check)
        add(folder, 180, target_bits="2", **OWN_32)
        add(folder, 20, target_bits="2", attack="gap", **OWN_32)
        folder.cells[1] = folder.cells[1].model_copy(update={"checks": (Check(id=check, verdict="fail"),)})
        (found,) = decided([result(folder, "triqdef-transfer")])
        assert (found.verdict, found.under) == ("cannot tell", verdict)
        assert found.decisive is not None
        assert found.decisive.name[-1] == (name or "gap")


def test_verdicts_under_the_protocol_hold_together(tmp_path: Path) -> None:
    """Holm 1979: what is decided for all is set aside, and makes room for the next."""
    folder = new(tmp_path)
    add(folder, 180, target_bits="2", **OWN_32)
    finding = result(folder, "qadtr-transfer")
    assert finding.decisive is not None

    def with_bound(name: str, low: float) -> Finding:
        group = replace(finding.groups[0], effect=Estimate(90, low, 100))
        claim = finding.claim.model_copy(update={"id": name})
        return replace(finding, claim=claim, groups=(group,), decisive=group)

    # Margins of 20 points to the threshold 70; half an interval for one of m is 1, 1.1436, 1.2214 times that for one.
    first, second, third = 20 / 1.25, 20 / 1.16, 20 / 0.99
    found = decided([with_bound(str(reach), 90 - reach) for reach in (first, second, third)])
    assert [each.under for each in found] == ["holds", "holds", "too close"]
    assert found[2].leans == "towards it"
    assert found[2].wanting == "at least 2 times the images and seeds"
    alone = decided([with_bound("alone", 90 - second), with_bound("other", 90 - 20 / 1.1)])
    assert [each.under for each in alone] == ["holds", "holds"]
    assert [each.under for each in decided([with_bound("a", 90 - 20 / 1.1), with_bound("b", 90 - 20 / 1.1)])] == [
        "too close", "too close",
    ]  # fmt: skip
    assert decided([]) == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = new(tmp_path)
    unseen(folder, "triqdef", 40)
    assert result(folder, "triqdef-unseen-pbat-points").reason == "baseline: no row with defense pbat; there: triqdef"
    assert result(folder, "qadtr-clean").reason == "no row with defense qadtr; there: triqdef"
    assert result(folder, "triqdef-cost").reason == "the run has no costs"
    unseen(folder, "pbat", 40, "2")
    assert result(folder, "triqdef-unseen-pbat-points").reason.startswith("no row and baseline that agree in base, ")


def test_a_crashed_cell_measures_nothing(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 5, defense="pbat", **OWN_32)
    folder.fail(
        "crashed", dataset="cifar10", model="resnet56", target_bits="2", patch_height=6, patch_width=6, **OWN_32
    )
    assert result(folder, "qadtr-transfer").reason == "no asr: error"


def test_inference_is_compared_at_one_bit_width(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 5)
    facts = {"model": "resnet56", "seed": 0, "batch_size": 256, "reference": "qat", "relative_time": 1.0}
    known = {"relative_inference": 1.0, "relative_inference_low": 0.99, "relative_inference_high": 1.01}
    rows = [
        {**facts, "defense": "qat", **known, "inference_bits": "2"},
        {**facts, "defense": "triqdef", **known, "inference_bits": "2"},
        {**facts, "defense": "pbat"},  # measured before inferences were
    ]
    folder.path.mkdir()
    names = list(rows[0])
    pq.write_table(
        pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), folder.path / "costs.parquet"
    )
    found = result(folder, "triqdef-inference")
    assert (found.verdict, found.under) == ("cannot tell", "")
    assert decided([found])[0].under == "holds"
    assert found.here.startswith("dataset cifar10, model resnet56: relative_inference 1 against 1, 1.00 times")
    pq.write_table(pa.Table.from_pylist([{**facts, "defense": "triqdef"}]), folder.path / "costs.parquet")
    assert result(folder, "triqdef-inference").reason == ("no relative_inference, which runs of before did not measure")


def test_costs_are_ratios_of_timed_steps(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 5)
    facts = {"model": "resnet56", "seed": 0, "batch_size": 256, "reference": "qat"}
    timed = {"qat": (1.0, 1.0, 1.0), "triqdef": (9.0, 8.8, 9.2), "pbat": (13.0, 12.0, 14.0), "dwq": (1.05, 1.0, 1.2)}
    rows = [
        {**facts, "defense": name, "relative_time": value, "relative_time_low": low, "relative_time_high": high}
        for name, (value, low, high) in timed.items()
    ]
    folder.path.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "costs.parquet")
    assert result(folder, "triqdef-cost").verdict == "does not hold"
    assert result(folder, "triqdef-cost-pbat").verdict == "holds"
    found = result(folder, "triqdef-cost-dwq")
    assert (found.verdict, found.leans) == ("cannot tell", "towards it")
    # Beside the reference itself, its quartiles are the interval.
    assert (effect(found).value, effect(found).low, effect(found).high) == pytest.approx((1.05, 1.0, 1.2))
    assert found.method == "quartiles of the timed rounds, side by side with the reference"
    above = math.hypot(math.log(9.2 / 9), math.log(13 / 12))
    assert effect(result(folder, "triqdef-cost-pbat")).high == pytest.approx(9 / 13 * math.exp(above))


@pytest.mark.parametrize(
    ("patched", "perturbed", "verdict", "leans"),
    [(0.6, 0.4, "cannot tell", "towards it"), (0.3, 0.9, "cannot tell", "against it")],
)
def test_gradients_are_compared_by_their_standard_errors(
    tmp_path: Path, patched: float, perturbed: float, verdict: str, leans: str
) -> None:
    folder = new(tmp_path)
    add(folder, 5)
    facts = {"model": "resnet56", "defense": "qat", "quantization": "qat", "seed": 0, "reference_bits": "32"}
    rows = [
        {**facts, "images": images, "bits": bits, "metric": metric, "value": value, "standard_error": 0.01}
        for bits in ("8", "2")
        for images, value in (("clean", 0.1), ("patched", patched), ("perturbed", perturbed))
        for metric in ("cosine", "mse")
    ]
    folder.path.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "gradients.parquet")
    found = result(folder, "qadtr-gradients")
    assert (found.verdict, found.leans) == (verdict, leans)
    assert found.reason == "the pixel attack, the patch and the images are not stated"
    assert [group.name for group in found.groups] == [("cifar10", "resnet56", "2"), ("cifar10", "resnet56", "8")]
    half = 1.959964 * math.hypot(1, 1) * 2.241403 / 1.959964  # two bit-widths that hold together
    difference = 100 * (patched - perturbed)
    assert (effect(found).value, effect(found).low, effect(found).high) == pytest.approx(
        (difference, difference - half, difference + half), abs=1e-3
    )
    (decided_found,) = decided([found])
    assert decided_found.under == ("holds" if leans == "towards it" else "does not hold")
    assert examine(CLAIMS["qadtr-gradients"], [ClaimSource(read_folder(folder.path))]).method.startswith(
        "standard errors over images"
    )


def test_without_gradients_their_claim_says_so(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 5)
    found = result(folder, "qadtr-gradients")
    assert (found.verdict, found.reason) == ("not measured", "the run has no gradients")


def test_costs_without_quartiles_decide_nothing(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 5)
    facts = {"model": "resnet56", "seed": 0, "batch_size": 256, "reference": "qat"}
    rows = [{**facts, "defense": name, "relative_time": time} for name, time in (("qat", 1.0), ("triqdef", 9.0))]
    folder.path.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "costs.parquet")
    found = result(folder, "triqdef-cost")
    assert (found.verdict, found.reason) == ("cannot tell", "no interval was measured")
    assert found.here.endswith("relative_time 9 against 1, 9.00 times, no interval")
    assert "| 9.00 times, no interval |" in as_markdown([found])
    (record,) = csv.DictReader(io.StringIO(as_csv([found])))
    assert (record["effect"], record["low"], record["high"]) == ("9", "", "")


def test_rows_of_several_runs_count(tmp_path: Path) -> None:
    sources = []
    for name, fooled, model in (("one", 180, "resnet56"), ("two", 20, "vgg16")):
        folder = new(tmp_path / name)
        add(folder, fooled, target_bits="2", model=model, **OWN_32)
        sources.append(ClaimSource(read_folder(folder.write())))
    found = examine(CLAIMS["triqdef-transfer"], sources)
    assert found.verdict == "does not hold"
    assert [group.name[1] for group in found.groups] == ["resnet56", "vgg16"]
    assert found.runs == (str(tmp_path / "one" / "run"), str(tmp_path / "two" / "run"))
    missing = examine(CLAIMS["triqdef-clean"], sources)
    assert missing.reason == f"{tmp_path / 'one' / 'run'}: no row with defense triqdef; there: qat"


def test_networks_that_two_runs_share_are_measured_once(tmp_path: Path) -> None:
    """Other networks of the same kind are a second measurement."""

    def source(name: str, fooled: int, *keys: str) -> ClaimSource:
        folder = new(tmp_path / name)
        add(folder, fooled, target_bits="2", **OWN_32)
        written = read_folder(folder.write())
        known = {**written.manifest, "checkpoints": [{"key": key} for key in keys]}
        return ClaimSource(replace(written, manifest=known))

    first, same, other = source("a", 180, "float", "qat"), source("b", 20, "float"), source("c", 100, "another")
    several: tuple[tuple[ClaimSource, ...], ...] = ((first,), (first, same), (same, first), (first, other))
    found = [examine(CLAIMS["triqdef-transfer"], given).groups for given in several]
    assert [[group.effect.value for group in groups] for groups in found] == [[90], [90], [10], [70]]


def test_newcombes_own_example() -> None:
    """Newcombe 1998, table II, (a) 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    bounds = [[100 * bound for bound in wilson(*counts)] for counts in ((56, 70), (48, 80))]
    one, other = Estimate(80, bounds[0][0], bounds[0][1]), Estimate(60, bounds[1][0], bounds[1][1])
    found = compare(one, other, "difference")
    assert (found.value, found.low, found.high) == pytest.approx((20, 5.24, 33.39), abs=0.005)


def test_ratios_of_nothing() -> None:
    nothing, some = Estimate(0, 0, 2), Estimate(50, 40, 60)
    assert math.isnan(compare(some, nothing, "ratio").value)
    found = compare(nothing, some, "ratio")
    assert [found.value, found.low, found.high] == pytest.approx([0, 0, 2 / 40])
    unbounded = compare(some, Estimate(1, 0, 3), "ratio")
    assert (unbounded.value, unbounded.high) == (50, math.inf)


def test_equal_outcomes_leave_an_interval_of_some_width() -> None:
    replicates = np.full(1000, 50.0)
    same = Estimate(50, 40, 60, replicates)
    found = compare(same, same, "difference")
    assert (found.value, found.low, found.high) == (0, -math.hypot(10, 10), math.hypot(10, 10))


def test_means_and_wider_intervals() -> None:
    found = mean([Estimate(10, 5, 20), Estimate(30, 15, 40)])
    assert (found.value, found.low, found.high, found.replicates) == (20, 10, 30, None)
    assert mean([Estimate(10, 5, 20)]) == Estimate(10, 5, 20)
    assert widened(Estimate(10, 5, 20), 1, "difference") == Estimate(10, 5, 20)
    wider = widened(Estimate(10, 5, 20), 2, "difference")
    assert (wider.low, wider.high) == pytest.approx((10 - 5 * 1.143594, 10 + 10 * 1.143594), abs=1e-4)
    assert widened(Estimate(99, 97, 100), 9, "level").high == 100
    ratio = widened(Estimate(0.5, 0.25, 1), 2, "ratio")
    assert math.log(ratio.high / 0.5) == pytest.approx(1.143594 * math.log(2), abs=1e-4)


def test_texts(tmp_path: Path) -> None:
    folder = new(tmp_path)
    add(folder, 180, target_bits="2", **OWN_32)
    sources = [ClaimSource(read_folder(folder.write()))]
    found = examine_all(claims(), sources)
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["claim"] for row in rows] == list(CLAIMS)
    assert tuple(rows[0]) == COLUMNS
    first = rows[0]
    assert (first["verdict"], first["effect"], first["unit"], first["contradictions"]) == ("holds", "90", "%", "T02")
    assert {row["verdict"] for row in rows} == {"holds", "not measured"}
    assert Counter(row["under_protocol"] for row in rows) == {"holds": 2, "": len(CLAIMS) - 2}
    text = as_markdown(found)
    assert f"Of {len(CLAIMS)} claims, as published: 2 holds, {len(CLAIMS) - 2} not measured. " in text
    assert "Under the protocol of these runs: 2 holds. Runs: " in text
    assert "| triqdef-transfer | a 32-bit patch fools the undefended 2-bit network in more than 73 % of its" in text
    assert "- T02: qadtr text" in text
    assert as_latex(found).count(r"\begin{table}") == math.ceil(len(CLAIMS) / 15)
