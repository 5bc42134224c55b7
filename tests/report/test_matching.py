"""Which rows of a run stand beside which published numbers, and what is said where none does."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qpatchbench.errors import ArtifactError
from qpatchbench.evaluation.statistics import wilson
from qpatchbench.reference.tables import published_table
from qpatchbench.reference.values import PublishedValue
from qpatchbench.report.analyses import write_analyses
from qpatchbench.report.folders import RunFolder, read_folder
from qpatchbench.report.leaderboard import Leaderboard
from qpatchbench.report.matching import Measured, Missing, Source
from qpatchbench.report.matching_analyses import find_cost, find_similarity
from qpatchbench.report.reading import Run
from qpatchbench.report.writing import write_file

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


def row(**facts: object) -> dict[str, str]:
    """A row of a leaderboard: an undefended 8-bit ResNet-56, and a 6x6 LaVAN patch made at 32 bits."""
    whole: dict[str, object] = {
        "base": "cifar10", "dataset": "cifar10", "model": "resnet56", "defense": "qat", "preprocessor": "none",
        "quantization": "qat", "target_bits": "8", "attack": "lavan", "patch_height": 6, "size": "6x6",
        "area_percent": 3.5156, "source_model": "resnet56", "source_defense": "qat", "source_bits": "32", "seen": "",
        "source_preprocessor": "none", "transformation": "", "status": "ok", "checks": "ok",
        "asr": 83, "asr_low": 82, "asr_high": 84,
        "n_eligible": 9000, "clean_accuracy": 80, "robust_accuracy": 20, "n_images": 10_000, "seeds": 3,
    } | facts  # fmt: skip
    return {name: str(value) for name, value in whole.items()}


def folder(*rows: Mapping[str, str], manifest: Mapping[str, Any] = FULL, **analyses: Any) -> RunFolder:  # noqa: ANN401
    return RunFolder("run", manifest, rows, **analyses)


def with_suite(**parts: object) -> dict[str, Any]:
    return {**FULL, "resolved": {**FULL["resolved"], **parts}}


def published(table: str, **facets: str) -> PublishedValue:
    (found,) = (
        value
        for value in published_table(table).values
        if all(getattr(value, name) == text for name, text in facets.items())
    )
    return found


def find(value: PublishedValue, run: RunFolder, row_mode: str = "") -> Measured | Missing:
    return Source(run).find(f"{value.paper}.{value.table}", value, row_mode)


def number(found: Measured | Missing) -> float:
    assert isinstance(found, Measured), found
    return found.value


LAVAN_8 = published("triqdef.1", model="resnet56", attack="lavan", target_bits="8")


def test_a_rate_comes_with_its_interval_counts_and_row() -> None:
    found = find(LAVAN_8, folder(row(asr=70, target_bits=4), row()))
    assert found == Measured(
        83, 82, 84, 9000, "run",
        "dataset cifar10, model resnet56, defense qat, quantization qat, target_bits 8, attack lavan, size 6x6, "
        "source_model resnet56, source_bits 32",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"base": "imagenet"}, "no row with dataset cifar10; there: imagenet"),
        ({"model": "resnet20"}, "no row with model resnet56; there: resnet20"),
        ({"defense": "pbat"}, "no row with defense qat; there: pbat"),
        ({"preprocessor": "jedi"}, "no row with preprocessor none; there: jedi"),
        ({"quantization": "ptq-minmax"}, "no row with quantization qat; there: ptq-minmax"),
        ({"target_bits": "w4a8"}, "no row with target_bits 8; there: w4a8"),
        ({"attack": "gap"}, "no row with attack lavan; there: gap"),
        ({"size": "8x8"}, "no row with size 6x6; there: 8x8"),
        ({"source_model": "vgg16"}, "no row with source_model resnet56; there: vgg16"),
        ({"source_bits": "8"}, "no row with source_bits 32; there: 8"),
        ({"seen": "unseen"}, "no row with seen none or seen; there: unseen"),
        ({"transformation": "shift 2,2"}, "no row with transformation none; there: shift 2,2"),
    ],
)
def test_the_facet_that_fails_is_named_with_what_there_is(facts: dict[str, object], reason: str) -> None:
    found = find(LAVAN_8, folder(row(**facts)))
    assert isinstance(found, Missing)
    assert found.reason == reason


def test_what_was_guessed_is_said() -> None:
    value = published("triqdef.16", defense="pbat", seen="seen", dataset="cifar10", target_bits="5")
    found = find(value, folder(row(model="resnet20", defense="pbat", attack="dpr", seen="seen", target_bits=5)))
    assert isinstance(found, Missing)
    assert found.reason == "no row with model resnet56 (not stated, assumed); there: resnet20"


def test_an_empty_leaderboard_measures_nothing() -> None:
    assert find(LAVAN_8, folder()) == Missing("no row with dataset cifar10; there: nothing", 0)


def test_a_crashed_cell_measures_nothing() -> None:
    found = find(LAVAN_8, folder(row(asr="", status="error")))
    assert isinstance(found, Missing)
    assert found.reason == "every cell failed: error"


def test_clean_accuracy_asks_for_no_patch() -> None:
    value = published("triqdef.4", dataset="cifar10", defense="pbat", target_bits="5")
    run = folder(row(defense="pbat", target_bits=5, attack="dpr", size="50x50", source_bits="2", clean_accuracy=81.64))
    found = find(value, run)
    assert isinstance(found, Measured)
    assert (found.value, found.n) == (81.64, 30_000)
    low, high = wilson(8164, 10_000)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))


def test_robust_accuracy_under_a_defense_that_stands_before_the_network() -> None:
    value = published("triqdef.6", defense="jedi", target_bits="32")
    facts = {"base": "imagenet", "model": "resnet50", "quantization": "fp", "target_bits": 32, "size": "50x50",
             "source_model": "resnet50", "defense": "none"}  # fmt: skip
    run = folder(row(**facts, robust_accuracy=1), row(**facts, preprocessor="jedi", robust_accuracy=33))
    assert number(find(value, run)) == 33


def test_the_float_network_of_a_row_is_that_of_its_quantized_ones() -> None:
    value = published("triqdef.1", model="resnet56", attack="lavan", target_bits="32")
    rows = [row(defense=name, quantization="fp", target_bits=32, asr=rate) for name, rate in (("none", 1), ("qat", 2))]
    assert number(find(value, folder(*rows), row_mode="qat")) == 2
    assert number(find(value, folder(*rows), row_mode="ptq")) == 1
    assert number(find(value, folder(*rows))) == 1


def test_names_of_the_papers_are_translated() -> None:
    facts = {"base": "imagenet", "model": "mobilenetv2_100", "source_model": "mobilenetv2_100", "size": "50x50"}
    value = published("triqdef.15", model="mobilenetv2", defense="none", target_bits="4")
    run = folder(row(**facts, target_bits=4, defense="none", quantization="ptq-percentile", asr=1))
    assert isinstance(find(value, run), Missing), "a float-trained network is not what QAT was measured on"
    assert number(find(value, folder(row(**facts, target_bits=4, asr=2)))) == 2
    calibrated = published("triqdef.10", model="swin_s", attack="gap", target_bits="8", param_value="percentile")
    facts |= {"model": "swin_s", "source_model": "swin_s", "attack": "gap", "defense": "none"}
    rows = [row(**facts, quantization=f"ptq-{name}", asr=rate) for name, rate in (("minmax", 1), ("percentile", 2))]
    assert number(find(calibrated, folder(*rows))) == 2


def test_a_noise_percentage_is_a_share_of_the_image() -> None:
    value = published("triqdef.9", model="resnet34", noise_percentage="0.08", target_bits="4")
    facts = {"base": "imagenet", "model": "resnet34", "source_model": "resnet34", "defense": "none", "target_bits": 4,
             "quantization": "ptq-minmax"}  # fmt: skip
    rows = [row(**facts, area_percent=100 * side**2 / 224**2, asr=side) for side in (50, 63, 71)]
    assert number(find(value, folder(*rows))) == 63
    found = find(value, folder(rows[0]))
    assert isinstance(found, Missing)
    assert found.reason.startswith("no row with area_percent 0.08; there: 4.98")


def test_moved_patches_are_matched_by_how_they_were_moved() -> None:
    rows = [row(transformation=text, asr=rate) for text, rate in (("", 1), ("shift 8,8", 2), ("rotation 5", 3))]
    for name, rate in (("original", 1), ("shift_(8,8)", 2), ("rotate_5deg", 3)):
        value = published("qadtr.20", param_value=name, target_bits="8")
        assert number(find(value, folder(*rows))) == rate


def test_patches_between_architectures() -> None:
    value = published("triqdef.8", source_model="resnet20", model="resnet56", target_bits="8")
    rows = [row(source_model=name, asr=rate) for name, rate in (("resnet56", 1), ("resnet20", 2))]
    assert number(find(value, folder(*rows))) == 2


def test_seen_patches_are_those_of_the_pool_for_a_defense_and_any_for_none() -> None:
    value = published("qadtr.11", defense="pbat", seen="seen", target_bits="8")
    rows = [row(defense="pbat", seen=seen, asr=rate) for seen, rate in (("", 1), ("seen", 2), ("unseen", 3))]
    assert number(find(value, folder(*rows))) == 2
    assert isinstance(find(value, folder(rows[0])), Missing)
    undefended = published("triqdef.2", defense="none", quantization="qat", seen="seen", patch_size="8x8")
    assert number(find(undefended, folder(row(size="8x8", seen="", asr=4)))) == 4


def test_unseen_patches_of_all_sizes_and_bits_are_averaged() -> None:
    value = published("triqdef.5", defense="dwq", seen="unseen", dataset="cifar10", attack="lavan", target_bits="4")
    shared = {"defense": "dwq", "seen": "unseen", "target_bits": 4, "source_defense": "none"}
    run = folder(
        row(**shared, size="5x5", source_bits="8", asr=40, asr_low=38, asr_high=41, n_eligible=10),
        row(**shared, size="7x7", source_bits="4", asr=60, asr_low=56, asr_high=65, n_eligible=20),
        row(**shared, size="7x7", source_bits="4", attack="gap", asr=99),
    )
    found = find(value, run)
    assert isinstance(found, Measured)
    assert (found.value, found.low, found.high, found.n) == (50, 47, 53, 30)
    assert found.row.endswith("mean of 2 rows")
    fixed = published("triqdef.2", defense="pbat", quantization="qat", seen="unseen", patch_size="8x8")
    rows = [
        row(defense="pbat", seen="unseen", size=size, source_bits="4", asr=rate)
        for size, rate in (("8x8", 1), ("7x7", 2))
    ]
    assert number(find(fixed, folder(*rows))) == 1


def test_ablations_are_known_by_their_fields_not_by_their_labels() -> None:
    suite = with_suite(
        defenses=[
            {"name": "triqdef", "label": None, "lambda_fdp": 0.8},
            {"name": "triqdef", "label": "mine", "lambda_fdp": 0.0},
            {"name": "triqdef", "label": "other", "lambda_fdp": 0.0, "lambda_gpdp": 0.0},
        ]
    )
    names = ("triqdef", "mine", "other")
    rows = [row(defense=name, seen="seen", asr=rate) for rate, name in enumerate(names)]
    value = {"dataset": "cifar10", "seen": "seen", "target_bits": "32"}
    run = folder(*({**each, "target_bits": "32", "quantization": "fp"} for each in rows), manifest=suite)
    assert number(find(published("triqdef.7", defense="triqdef_wo_fdp", **value), run)) == 1
    assert number(find(published("triqdef.7", defense="triqdef", **value), run)) == 0
    found = find(published("triqdef.7", defense="triqdef_wo_gpdp", **value), run)
    assert isinstance(found, Missing), "nothing is left out but GPDP"
    assert found.reason == "no row with defense triqdef with lambda_gpdp 0; there: triqdef, mine, other"


def test_a_label_of_its_own_is_another_variant() -> None:
    suite = with_suite(defenses=[{"name": "dwq", "label": "dwq_without_at", "adversarial": False}])
    value = published("qadtr.11", defense="dwq", seen="seen", target_bits="8")
    found = find(value, folder(row(defense="dwq_without_at", seen="seen"), manifest=suite))
    assert isinstance(found, Missing)
    assert found.reason == "no row with defense dwq; there: dwq_without_at"


def test_the_grid_of_weights_is_matched_by_its_fields() -> None:
    suite = with_suite(
        defenses=[
            {"name": "triqdef", "label": "a", "alpha": 1.0, "beta": 1.0},
            {"name": "triqdef", "label": "b", "lambda_fdp": 0.5, "lambda_gpdp": 0.8},
        ]
    )
    rows = [row(defense=name, target_bits=4, clean_accuracy=rate) for name, rate in (("a", 1), ("b", 2))]
    run = folder(*rows, manifest=suite)
    at = {"metric": "clean_accuracy", "target_bits": "4"}
    assert number(find(published("triqdef.13", param="(alpha,beta)", param_value="(1.0,1.0)", **at), run)) == 1
    lambdas = {"param": "(lambda_fdp,lambda_gpdp)", "param_value": "(0.5,0.8)"}
    assert number(find(published("triqdef.13", **lambdas, **at), run)) == 2


def test_a_defense_as_it_is_stands_for_no_other_point_of_the_grid() -> None:
    run = folder(row(defense="triqdef"), manifest=with_suite(defenses=[{"name": "triqdef", "alpha": 0.5, "beta": 1.0}]))
    at = {"param": "(alpha,beta)", "metric": "clean_accuracy", "target_bits": "4"}
    found = find(published("triqdef.13", param_value="(1.0,0.5)", **at), run)
    assert isinstance(found, Missing)
    assert found.reason == "no row with defense triqdef with alpha 1.0 with beta 0.5; there: triqdef"


def test_pixel_attacks_are_matched_by_epsilon() -> None:
    suite = with_suite(
        attacks=[
            {"name": "pgd", "label": "small", "steps": 20, "epsilon": 0.015},
            {"name": "pgd", "label": "large", "steps": 20, "epsilon": 0.03},
            {"name": "pgd", "label": "short", "steps": 10, "epsilon": 0.03},
        ]
    )
    rows = [
        row(attack=name, size="32x32", robust_accuracy=rate)
        for name, rate in (("small", 30), ("large", 10), ("short", 90))
    ]
    value = published("qadtr.7", defense="none", quantization="qat", epsilon="0.03")
    assert number(find(value, folder(*rows, manifest=suite))) == 10


@pytest.mark.parametrize(
    ("manifest", "facts", "told"),
    [
        ({"dataset_note": "cifar10 (jpeg)"}, {}, "images: cifar10 (jpeg)"),
        ({"partial": True}, {}, "evaluation images cut by --limit"),
        ({"images": {"evaluation": 500}}, {}, "500 of 10,000 test images"),
        (with_suite(training={"epochs": 30}), {}, "30 epochs instead of 200"),
        (
            with_suite(training={"epochs": 30}, finetuning={"epochs": 2, "images_per_epoch": 6400}),
            {},
            "30 epochs and 2 of fine-tuning instead of 200; 6,400 images per epoch of fine-tuning",
        ),
        (with_suite(dataset={"train_images": 25_000}), {}, "25,000 training images"),
        (with_suite(attacks=[{"name": "lavan", "size": 6, "steps": 60}]), {}, "lavan with steps 60 instead of 1000"),
        (with_suite(defenses=[{"name": "qat", "joint": False}]), {}, "qat with joint False instead of True"),
        ({}, {"status": "1 of 3 seeds failed"}, "1 of 3 seeds failed"),
        ({}, {"checks": "fail V2 V6; warn V3"}, "checks: fail V2 V6"),
        ({}, {"checks": "warn V3"}, ""),
        (with_suite(attacks=[{"name": "lavan", "size": 6, "steps": 5000}]), {}, ""),
        (with_suite(attacks=[{"name": "lavan", "size": 8, "steps": 5}, {"name": "lavan", "size": 6}]), {}, ""),
        (with_suite(training={"epochs": 30}, models=[{"name": "resnet56", "weights": "x.pt"}]), {}, ""),
    ],
)  # fmt: skip
def test_departures_from_the_protocol_are_told(manifest: dict[str, Any], facts: dict[str, object], told: str) -> None:
    found = find(LAVAN_8, folder(row(**facts), manifest={**FULL, **manifest}))
    assert isinstance(found, Measured)
    assert "; ".join(found.departures) == told


def test_what_an_attack_lacks_is_no_matter_of_clean_accuracy() -> None:
    suite = with_suite(attacks=[{"name": "lavan", "size": 6, "steps": 60}])
    value = published("qadtr.9", defense="qat", target_bits="8")
    found = find(value, folder(row(checks="fail V2"), manifest=suite))
    assert isinstance(found, Measured)
    assert found.departures == ()


def test_a_stand_in_is_used_where_it_was_asked_for_and_named() -> None:
    run = folder(row(model="resnet20", source_model="resnet20"))
    found = Source(run, {"resnet56": "resnet20"}).find("triqdef.1", LAVAN_8, "qat")
    assert isinstance(found, Measured)
    assert found.departures == ("architecture: resnet20 instead of resnet56",)
    between = published("triqdef.8", source_model="resnet20", model="resnet56", target_bits="8")
    assert isinstance(Source(run, {"resnet56": "resnet20"}).find("triqdef.8", between, "qat"), Missing)


# Costs and similarities

COST = {
    "model": "resnet56", "seed": 0, "reference": "qat", "bits": "32 8 5 4 2", "batch_size": 256,
    "peak_bytes": 3 * 10**9,
}  # fmt: skip
COSTS = (
    {**COST, "defense": "qat", "step_seconds": 0.1, "step_seconds_low": 0.08, "step_seconds_high": 0.125,
     "images_per_second": 2560.0, "relative_time": 1.0, "relative_time_low": 1.0, "relative_time_high": 1.0,
     "relative_memory": 1.0},
    {**COST, "defense": "triqdef", "step_seconds": 0.2, "step_seconds_low": 0.18, "step_seconds_high": 0.24,
     "images_per_second": 1280.0, "relative_time": 2.0, "relative_time_low": 1.9, "relative_time_high": 2.2,
     "relative_memory": 1.5},
)  # fmt: skip


def cost(metric: str) -> PublishedValue:
    return published("triqdef.17", defense="triqdef", dataset="cifar10", metric=metric)


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [
        ("iter_ms", (200, 180, 240)),
        ("images_per_s", (1280, 256 / 0.24, 256 / 0.18)),
        ("time_x", (2, 1.9, 2.2)),
        ("mem_x", (1.5, math.nan, math.nan)),
        ("peak_mem_gb", (3, math.nan, math.nan)),
    ],
)
def test_costs_in_the_published_units(metric: str, numbers: tuple[float, float, float]) -> None:
    found = find_cost(Source(folder(costs=COSTS)), cost(metric))
    assert isinstance(found, Measured)
    assert (found.value, found.low, found.high) == pytest.approx(numbers, nan_ok=True)
    assert found.departures == ()


def test_runs_of_before_have_no_quartiles_of_ratios() -> None:
    older = [{name: value for name, value in row.items() if "time_" not in name} for row in COSTS]
    found = find_cost(Source(folder(costs=older)), cost("time_x"))
    assert isinstance(found, Measured)
    assert (found.value, found.low, found.high) == pytest.approx((2, math.nan, math.nan), nan_ok=True)


def test_what_costs_lack_is_named() -> None:
    value = cost("time_x")
    other = {**FULL, "dataset_note": "imagenet"}
    elsewhere = ({**COSTS[1], "model": "resnet20"},)
    assert find_cost(Source(folder()), value) == Missing("the run has no costs", -1)
    assert find_cost(Source(folder(costs=COSTS, manifest=other)), value) == Missing(
        "no costs with dataset cifar10; there: imagenet"
    )
    assert find_cost(Source(folder(costs=elsewhere)), value) == Missing("no row with model resnet56; there: resnet20")
    assert find_cost(Source(folder(costs=COSTS[:1])), value) == Missing("no row with defense triqdef; there: qat", 1)
    slow = tuple({**each, "batch_size": 128, "reference": "triqdef"} for each in COSTS)
    found = find_cost(Source(folder(costs=slow, manifest={**FULL, "device": "cpu"})), value)
    assert isinstance(found, Measured)
    assert found.departures == (
        "timed on cpu instead of an NVIDIA A100", "batches of 128 instead of 256", "relative to triqdef instead of qat",
    )  # fmt: skip


def test_costs_of_a_network_that_stands_in() -> None:
    smaller = folder(costs=[{**row, "model": "resnet20"} for row in COSTS])
    found = find_cost(Source(smaller, {"resnet56": "resnet20"}), cost("time_x"))
    assert isinstance(found, Measured)
    assert (found.value, found.departures) == (2, ("architecture: resnet20 instead of resnet56",))


def similarity(layer: str, metric: str, value: float, **facts: object) -> dict[str, Any]:
    return {
        "model": "resnet34", "defense": "qat", "quantization": "qat", "images": "clean", "layer": layer,
        "first_bits": "32", "second_bits": "5", "metric": metric, "value": value, "standard_error": 0.01,
        "n_images": 100,
    } | facts  # fmt: skip


SIMILAR = (
    similarity("conv1", "soft_dice", 0.5),
    similarity("layer2", "soft_dice", 0.6, standard_error=None),
    similarity("input gradient", "cosine", 0.1, images="patched"),
    similarity("input gradient", "cosine", 0.2),
)
IMAGENET = {**FULL, "dataset_note": "imagenet"}


def test_similarities_of_layers_and_of_gradients() -> None:
    run = folder(manifest=IMAGENET, similarity=SIMILAR)
    pair = {"metric": "softdice", "source_bits": "32", "target_bits": "5"}
    first = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L0.conv1", **pair))
    assert isinstance(first, Measured)
    assert (first.value, first.low, first.high) == pytest.approx((0.5, 0.48040036, 0.51959964))
    assert first.departures == ("network, layer and images are not stated",)
    second = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L1.conv1", **pair))
    assert isinstance(second, Measured)
    assert (second.value, math.isnan(second.low), math.isnan(second.high)) == (0.6, True, True)
    third = find_similarity(run, "triqdef.12", published("triqdef.12", param_value="L2.conv1", **pair))
    assert third == Missing("no early layer number 3; there: conv1, layer2", 1)
    gradient = find_similarity(run, "triqdef.3", published("triqdef.3", metric="cosine", param_value="fp-5b"))
    assert number(gradient) == 0.2
    other = find_similarity(run, "triqdef.3", published("triqdef.3", metric="cosine", param_value="5b-4b"))
    assert isinstance(other, Missing)
    assert other.reason == "no row with first_bits 5; there: 32"


def test_similarities_of_whatever_network_a_run_has() -> None:
    """The tables name neither data set nor network; ResNets come first."""
    value = published("triqdef.3", metric="cosine", param_value="fp-5b")
    gradients = similarity("input gradient", "cosine", 0.3, model="vgg16")
    other = find_similarity(folder(similarity=[gradients]), "triqdef.3", value)
    assert isinstance(other, Measured)
    assert (other.value, other.row) == (0.3, "vgg16, qat, qat, clean images, input gradient")
    assert other.departures == (
        "network, layer and images are not stated", "dataset: cifar10 instead of imagenet, which is assumed",
    )  # fmt: skip
    assert number(find_similarity(folder(similarity=[gradients, *SIMILAR]), "triqdef.3", value)) == 0.2


# Reading run folders


def test_analyses_of_a_published_folder_are_read_from_text(tmp_path: Path) -> None:
    """A published folder has no Parquet; what the .csv says comes back with its types."""
    costs = [{**each, "all_widths": True} for each in COSTS]
    directory = tmp_path / "run"
    directory.mkdir()
    for name, rows in (("costs", costs), ("similarity", SIMILAR)):
        pq.write_table(pa.Table.from_pylist([*rows]), directory / f"{name}.parquet")
    (directory / "manifest.json").write_text(json.dumps(FULL))
    board = row() | {"patch_width": "6"}
    (directory / "leaderboard.csv").write_text(",".join(board) + "\n" + ",".join(board.values()) + "\n")
    whole = read_folder(directory)
    write_analyses(directory, ("csv",))
    for name in ("costs", "similarity"):
        (directory / f"{name}.parquet").unlink()
    published = read_folder(directory)
    assert published.costs == whole.costs == tuple(costs)
    assert published.similarity == whole.similarity == SIMILAR
    assert published.costs[0]["bits"] == "32 8 5 4 2"
    assert published.similarity[0]["first_bits"] == "32"


def test_a_simulated_run_gives_the_numbers_of_its_leaderboard(simulated: Path, tmp_path: Path) -> None:
    frame = Leaderboard(Run(simulated)).frame
    value = published("triqdef.1", model="resnet20", attack="lavan", target_bits="4")
    run = read_folder(simulated)
    sized = RunFolder(run.name, run.manifest, tuple({**each, "size": "6x6"} for each in run.rows))
    found = Source(sized).find("triqdef.1", value, "qat")
    (expected,) = (
        each
        for each in frame.to_dict("records")
        if (each["model"], each["defense"], each["attack"], each["quantization"], each["target_bits"])
        == ("resnet20", "qat", "lavan", "qat", "4")
        and (each["source_model"], each["source_bits"]) == ("resnet20", "32")
    )
    assert isinstance(found, Measured)
    numbers = [expected[name] for name in ("asr", "asr_low", "asr_high")]
    assert [found.value, found.low, found.high] == pytest.approx(numbers, abs=1e-4)
    assert found.n == expected["n_eligible"]
    assert "images: cifar10 (jpeg)" in found.departures
    assert run.rows[0]["size"] == "5x5"
    assert run.rows[0]["base"] == "cifar10"


def test_the_written_leaderboard_is_read_and_an_old_one_is_not(simulated: Path, tmp_path: Path) -> None:
    from qpatchbench.report.tables import csv

    names = ("manifest.json", "cells.parquet", "outcomes.parquet", "examples.safetensors")
    for name in names:
        write_file(tmp_path / name, (simulated / name).read_bytes())
    frame = Leaderboard(Run(simulated)).frame
    board = write_file(tmp_path / "leaderboard.csv", csv(frame.head(3)).encode())
    assert len(read_folder(tmp_path).rows) == 3
    os.utime(board, (0, 0))
    assert len(read_folder(tmp_path).rows) == len(frame)
    for name in names[1:]:
        (tmp_path / name).unlink()
    assert len(read_folder(tmp_path).rows) == 3, "what was published of a run is enough"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected a run folder with manifest.json and leaderboard.csv or cells.parquet, found an empty folder"),
        ({"a.txt": "", "b.txt": ""}, "or cells.parquet, found a.txt, b.txt"),
        ({"manifest.json": "{}"}, "or cells.parquet, found manifest.json"),
        ({"manifest.json": "{", "leaderboard.csv": ""}, "manifest.json: expected JSON: "),
        ({"manifest.json": "[]", "leaderboard.csv": ""}, "manifest.json: expected a JSON object, found list"),
        ({"manifest.json": "{}", "leaderboard.csv": "a,b\n1,2\n"}, "expected a leaderboard, found columns a, b"),
    ],
)
def test_what_is_no_run_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found no such folder"):
        read_folder(tmp_path / "nowhere")


def test_a_manifest_without_a_suite_matches_by_name(tmp_path: Path) -> None:
    run = folder(row(), manifest=json.loads('{"dataset_note": "cifar10"}'))
    assert number(find(LAVAN_8, run)) == 83
