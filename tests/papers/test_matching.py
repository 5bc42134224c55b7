"""Which rows of a run stand beside which published numbers, and what is said where none does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from qpatchbench.papers.matching import Measured, Missing, SearchedRun
from qpatchbench.papers.printed.published_tables import published_table
from qpatchbench.papers.printed.values import PublishedValue
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row, read_row
from qpatchbench.statistics.intervals import wilson

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


def record(**facts: object) -> dict[str, str]:
    """A line of a leaderboard: an undefended 8-bit ResNet-56, and a 6x6 LaVAN patch made at 32 bits."""
    whole: dict[str, object] = {
        "dataset": "cifar10", "model": "resnet56", "defense": "qat", "preprocessor": "none",
        "quantization": "qat", "target_bits": "8", "attack": "lavan", "patch_height": 6, "patch_width": 6,
        "area_percent": 3.5156, "source_model": "resnet56", "source_defense": "qat",
        "source_quantization": "fp", "source_bits": "32", "seen": "",
        "source_preprocessor": "none", "transformation": "", "status": "ok", "checks": "ok",
        "asr": 83, "asr_low": 82, "asr_high": 84,
        "n_eligible": 9000, "clean_accuracy": 80, "robust_accuracy": 20, "n_images": 10_000, "seeds": 3,
    } | facts  # fmt: skip
    return {name: str(value) for name, value in whole.items()}


def row(**facts: object) -> Row:
    """The same, read; `size` stands for both sides."""
    side = str(facts.pop("size", "6x6")).partition("x")[0]
    return read_row(record(**{"patch_height": side, "patch_width": side, **facts}))


def folder(*rows: Row, manifest: Mapping[str, Any] = FULL, **analyses: Any) -> RunFolder:  # noqa: ANN401
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
    return SearchedRun(run).find(f"{value.paper}.{value.table}", value, row_mode)


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
        ({"dataset": "imagenet"}, "no row with dataset cifar10; there: imagenet"),
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
    facts = {"dataset": "imagenet", "model": "resnet50", "quantization": "fp", "target_bits": 32, "size": "50x50",
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
    facts = {"dataset": "imagenet", "model": "mobilenetv2_100", "source_model": "mobilenetv2_100", "size": "50x50"}
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
    facts = {"dataset": "imagenet", "model": "resnet34", "source_model": "resnet34", "defense": "none",
             "target_bits": 4, "quantization": "ptq-minmax"}  # fmt: skip
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
    run = folder(*(replace(each, target_bits="32", quantization="fp") for each in rows), manifest=suite)
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
    found = SearchedRun(run, {"resnet56": "resnet20"}).find("triqdef.1", LAVAN_8, "qat")
    assert isinstance(found, Measured)
    assert found.departures == ("architecture: resnet20 instead of resnet56",)
    between = published("triqdef.8", source_model="resnet20", model="resnet56", target_bits="8")
    assert isinstance(SearchedRun(run, {"resnet56": "resnet20"}).find("triqdef.8", between, "qat"), Missing)


def test_a_manifest_without_a_suite_matches_by_name() -> None:
    run = folder(row(), manifest=json.loads('{"dataset_note": "cifar10"}'))
    assert number(find(LAVAN_8, run)) == 83
