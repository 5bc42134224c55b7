"""Standings: which patch decides in which column, pooled seeds, the worst case per image, and ranks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qpatchbench.errors import ArtifactError, UnknownNameError
from qpatchbench.report.leaderboard.row import read_row
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.rate import RateImages, ThreatRate, counted, p_of_difference, pooled
from qpatchbench.report.standings.selection import BoardSelection
from qpatchbench.report.standings.standing import Standing, standings
from qpatchbench.report.standings.threats import board_size, sizes_of_threats, threats_of
from qpatchbench.report.standings.tie_ranks import rank_rates
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import mcnemar_exact, wilson
from tests.report.made_up_runs import row, write_run
from tests.report.run_folders import Folder, make_record

IMAGES = 100


def of(*runs: Path, size: str = "") -> dict[str, Standing]:
    """Standings by label."""
    found = standings(read_experiments(runs), size)
    assert found
    return {each.label: each for each in found}


def single(fooled: int, *, out_of: int = IMAGES, start: int = 0) -> RateImages:
    """One seed, one goal; images start..start + fooled are fooled."""
    success = np.zeros((1, 1, out_of), bool)
    success[..., start : start + fooled] = True
    return RateImages(success, np.ones_like(success), ("images",))


@pytest.mark.parametrize(
    ("facts", "threats"),
    [
        ({"lineage": "same-network"}, ("white_box",)),
        ({"lineage": "same-network", "preprocessor": "jedi"}, ("other_bits",)),
        ({"lineage": "shared-weights", "source_bits": "32"}, ("from_32",)),
        ({"lineage": "shared-weights", "source_bits": "8"}, ("other_bits",)),
        ({"lineage": "ensemble", "source_bits": "ensemble"}, ("ensemble",)),
        ({"lineage": "independent", "source_bits": "ensemble"}, ("other_bits",)),
        ({"lineage": "fine-tuned", "seen": "unseen", "source_bits": "32"}, ("unseen",)),
        ({"lineage": "same-network", "seen": "seen"}, ("seen", "white_box")),
        ({"lineage": "same-network", "transformation": "shift 2,2"}, ()),
        ({"lineage": "", "source_model": "", "attack": "random"}, ()),
    ],
)
def test_a_row_falls_under_the_threats_that_it_is(facts: dict[str, str], threats: tuple[str, ...]) -> None:
    assert threats_of(read_row(row(**facts))) == threats


def test_a_board_compares_one_size_and_the_nearest_where_a_threat_lacks_it() -> None:
    own = [row(target_bits="4", patch_height=side, patch_width=side) for side in (6, 6, 8)]
    unseen = [row(seen="unseen", lineage="fine-tuned", patch_height=side, patch_width=side) for side in (5, 7, 9)]
    rows = [read_row(each) for each in (*own, *unseen)]
    assert board_size(rows) == "6x6"
    assert sizes_of_threats(rows, "6x6") == {"white_box": "6x6", "unseen": "7x7"}


def test_the_strongest_patch_decides_and_is_named(tmp_path: Path) -> None:
    rows = [
        row(target_bits="4", attack="gap", asr=50, checks="ok"),
        row(target_bits="4", attack="patch_apgd", asr=70, asr_low=65, asr_high=75, checks="fail V13; warn V1"),
        row(target_bits="4", attack="lavan", asr=90, patch_height=8, patch_width=8),
        row(target_bits="4", source_bits="32", lineage="shared-weights", asr=30, asr_low=25, asr_high=36),
        row(target_bits="4", source_bits="8", lineage="shared-weights", asr=20),
        row(target_bits="4", source_bits="2", lineage="shared-weights", asr=25),
    ]
    (found,) = of(write_run(tmp_path / "run", rows)).values()
    assert {name: rate.value for name, rate in found.rates.items()} == {
        "clean": 90,
        "random": 8,
        "from_32": 30,
        "other_bits": 25,
        "white_box": 70,
        "worst": 70,
    }
    white_box = found.rates["white_box"]
    assert (white_box.attack, white_box.size, white_box.place, white_box.rank) == ("patch_apgd", "6x6", 2, 0)
    assert found.rates["other_bits"].source == "qat@2"
    assert found.rates["worst"].at_least
    assert [tuple(each) for each in found.verdicts()] == [
        ("fail", "V13", "white box"),
        ("warn", "V1", "white box"),
    ]
    assert found.verdicts(("from_32",)) == ()


def test_the_worst_case_is_counted_per_image(new_folder: object, tmp_path: Path) -> None:
    """Two patches that fool disjoint images: 30 and 20 of 100, together 50; 10 images are wrong anyway."""
    labels = np.arange(IMAGES, dtype=np.int32) % 10
    folder = Folder(tmp_path / "run", labels)
    clean = np.where(np.arange(IMAGES) < 90, labels, (labels + 1) % 10)
    for attack, first, count in (("gap", 0, 30), ("lavan", 30, 20)):
        patched = clean.copy()
        patched[first : first + count] = (labels[first : first + count] + 3) % 10
        folder.add(clean, {"untargeted": patched}, attack=attack, goal_kind="untargeted")
    (found,) = of(folder.write()).values()
    worst = found.rates["worst"]
    assert (worst.successes, worst.trials, worst.at_least) == (50, 90, False)
    low, high = wilson(50, 90)
    assert (worst.low, worst.high) == (100 * low, 100 * high)
    assert found.rates["white_box"].successes == 30


def test_seeds_of_two_runs_of_one_suite_are_pooled(tmp_path: Path) -> None:
    labels = np.arange(IMAGES, dtype=np.int32) % 10

    def run(name: str, seed: int, fooled: int, **manifest: object) -> Path:
        folder = Folder(tmp_path / name, labels, manifest)
        patched = np.where(np.arange(IMAGES) < fooled, (labels + 1) % 10, labels)
        folder.add(labels, {"untargeted": patched}, goal_kind="untargeted", seed=seed)
        return folder.write()

    first, second = run("first", 0, 20), run("second", 1, 40)
    (found,) = of(first, second).values()
    rate = found.rates["white_box"]
    assert (rate.value, rate.successes, rate.trials, found.seeds) == (30, 60, 200, 2)
    assert rate.low < 30 < rate.high
    assert len(found.runs) == 2
    # The same seed again is the same experiment twice, and another suite another experiment: rows of their own.
    assert len(standings(read_experiments([first, run("again", 0, 30)]))) == 2
    assert len(standings(read_experiments([first, run("other", 1, 30, resolved={"suite": "other"})]))) == 2


def test_published_rates_are_pooled_by_their_counts() -> None:
    parts = [ThreatRate(20, 10, 30, 20, 100, checks="ok"), ThreatRate(40, 34, 46, 120, 300, checks="fail V2")]
    found = pooled(parts)
    assert (found.value, found.successes, found.trials, found.checks) == (35, 140, 400, "fail V2")
    assert found.high - found.value == pytest.approx(math.hypot(10 / 4, 6 * 3 / 4))


def test_a_difference_on_the_same_images_is_mcnemars() -> None:
    first, second = counted(single(30)), counted(single(45, start=10))
    assert p_of_difference(first, second) == (mcnemar_exact(10, 25), True)
    apart = ThreatRate(first.value, first.low, first.high), ThreatRate(second.value, second.low, second.high)
    p, paired = p_of_difference(*apart)
    assert not paired
    assert 0.02 < p < 0.05  # of 30 and 45 of 100 that are independent: z = 2.2


def test_ranks_are_shared_by_what_the_tests_cannot_separate() -> None:
    rates = [counted(single(each)) for each in (60, 10, 12, 30)]
    ranking = rank_rates(rates, higher_is_better=False)
    assert ranking.ranks == {1: 1, 2: 1, 3: 3, 0: 4}
    assert ranking.paired
    assert rank_rates(rates, higher_is_better=True).ranks == {0: 1, 3: 2, 2: 3, 1: 3}


def test_what_failed_a_check_or_is_a_bound_has_no_rank() -> None:
    rates = [ThreatRate(5, 4, 6, checks="fail V2"), None, ThreatRate(5, 4, 6, at_least=True), ThreatRate(9, 8, 10)]
    assert rank_rates(rates, higher_is_better=False).ranks == {3: 1}


def test_a_simulated_run_ranks_within_its_bits(simulated: Path) -> None:
    found = standings(read_experiments([simulated]))
    assert len(found) == 20
    assert all(each.seeds == 2 for each in found)
    for each in found:
        rivals = [other for other in found if (other.model, other.bits) == (each.model, each.bits)]
        ranks = sorted(other.rates["white_box"].rank for other in rivals if other.rates["white_box"].rank)
        assert not ranks or ranks[0] == 1
    run = Run(simulated)
    cell = next(cell for cell in run.cells if not cell.control and cell.status == "ok")
    label = f"{cell.model} {cell.defense} {cell.quantization}@{cell.target_bits}"
    worst = next(each for each in found if each.label == label).rates["worst"]
    assert not worst.at_least
    assert worst.value >= run.outcomes(cell).fooled.sum() / run.outcomes(cell).eligible.sum() * 100


def test_entries_are_read_from_their_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "entries" / name, [row(target_bits="4")], resolved={"suite": name})
    assert {each.experiment for each in standings(read_experiments([], tmp_path / "entries"))} == {"one", "two"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="expected folders with a manifest"):
        read_experiments([], tmp_path / "empty")
    with pytest.raises(ArtifactError, match="expected run folders"):
        read_experiments([])


def test_a_selection_names_what_is_there(tmp_path: Path) -> None:
    rows = standings(read_experiments([write_run(tmp_path / "run", [row(target_bits="4"), row(target_bits="8")])]))
    assert [each.bits for each in BoardSelection(bits=("4",)).rows(rows)] == ["4"]
    assert BoardSelection().columns(rows) == ("clean", "random", "white_box", "worst")
    with pytest.raises(UnknownNameError, match="Did you mean: white_box"):
        BoardSelection(threats=("white-box",)).columns(rows)
    with pytest.raises(UnknownNameError, match="unknown bits '5'"):
        BoardSelection(bits=("5",)).rows(rows)


def test_records_are_not_lost_where_nothing_was_measured(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run", np.arange(10, dtype=np.int32))
    clean = np.arange(10, dtype=np.int32)
    folder.add(clean, {"untargeted": clean}, goal_kind="untargeted")
    facts = make_record(attack="gap").model_dump(exclude={"counts", "checks", "queries", "cell", "patch"})
    folder.fail("a traceback", **{name: facts[name] for name in ("attack",)})
    (found,) = of(folder.write()).values()
    assert found.incomplete == "1 of 2 patches not measured on every seed"
