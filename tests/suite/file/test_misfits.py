"""What images, classes, batches or bits of a suite forbid is refused where it stands, before anything is read."""

from __future__ import annotations

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.types import Announced
from tests.suite.conftest import MakeSuite

PIXELS = "expected at most the side of the images, 16 pixels, found 17"
LONE = "expected at least 2 images, since {} attacks a part of every batch, found 1"
NOTHING = "expected calibration_images of the dataset of at least 1, found 0"


def problems(make_suite: MakeSuite, **sections: object) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        make_suite(**sections)
    return [text.partition(": ")[2] for text in caught.value.problems]


@pytest.mark.parametrize(
    ("classes", "attack", "problem"),
    [
        (2, {"name": "patch_apgd", "size": 4, "loss": "dlr", "targets": "untargeted"}, "attacks[0].loss: expected at "
         "least 3 classes for the untargeted loss dlr, found 2; margin works with any number"),
        (3, {"name": "patch_apgd", "size": 4, "loss": "dlr"}, "attacks[0].loss: expected at least 4 classes for the "
         "targeted loss dlr, found 3; margin works with any number"),
        (3, {"name": "autoattack"}, "attacks[0]: expected at least 4 classes for the targeted loss of AutoAttack, "
         "found 3; pgd works with any number"),
        (3, {"name": "lavan", "size": 4, "targets": [3]}, "attacks[0].targets[0]: expected class ids in 0..2 of fake, "
         "found 3"),
        (3, {"name": "lavan", "size": 4, "targets": [2, 2]}, "attacks[0].targets: expected every class once, found 2 "
         "repeatedly"),
    ],
)  # fmt: skip
def test_an_attack_for_more_classes_than_there_are(
    classes: int, attack: dict[str, object], problem: str, make_suite: MakeSuite
) -> None:
    dataset = {"name": "fake", "image_size": 16, "classes": classes}
    assert problems(make_suite, dataset=dataset, attacks=[attack]) == [problem]


def test_the_loss_dlr_is_taken_with_as_many_classes_as_it_needs(make_suite: MakeSuite) -> None:
    dataset = {"name": "fake", "image_size": 16, "classes": 4}
    assert make_suite(dataset=dataset, attacks=[{"name": "patch_apgd", "size": 4, "loss": "dlr"}])


def test_textures_need_crafting_images_of_every_class(make_suite: MakeSuite) -> None:
    dataset = {"name": "fake", "image_size": 16, "craft_images": 9}
    found = problems(make_suite, dataset=dataset, attacks=[{"name": "patchattack", "size": 4}])
    assert found == [
        "attacks[0].agent: expected craft_images of the dataset of at least 10, one of each class to take textures "
        "from, found 9; mpa needs none"
    ]


@pytest.mark.parametrize(
    ("preprocessor", "problem"),
    [
        ({"name": "smoothing", "window": 17}, f"preprocessors[0].window: {PIXELS}"),
        ({"name": "lgs", "window": 17}, f"preprocessors[0].window: {PIXELS}"),
        ({"name": "patchcleanser", "size": 17}, "preprocessors[0].size: expected a patch that fits into the 16x16 "
         "images of fake, found 17x17"),
    ],
)  # fmt: skip
def test_a_preprocessor_larger_than_the_images(
    preprocessor: dict[str, object], problem: str, make_suite: MakeSuite
) -> None:
    assert problems(make_suite, preprocessors=[preprocessor]) == [problem]


def test_a_diffusion_model_of_its_own_needs_an_even_side(make_suite: MakeSuite) -> None:
    found = problems(make_suite, dataset={"name": "fake", "image_size": 15}, preprocessors=["diffpure"])
    assert found == ["preprocessors[0]: expected images of an even side for the model that is trained, found 15 pixels"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"size": 17}, "size: expected a patch that fits into the 16x16 images of fake, found 17x17"),
        ({"location": "fixed", "place": [9, 0]}, "place: expected a place in rows 0..8 and columns 0..8, where the "
         "patch is inside the image and beside the excluded box, found [9, 0]"),
        ({"excluded": [4, 4, 8, 8]}, "excluded: expected room for a patch of 8 x 8 beside the excluded box "
         "[4, 4, 8, 8] (row, column, height, width) on an image of 16 x 16, found none; make the box or the patch "
         "smaller"),
    ],
)  # fmt: skip
def test_a_defense_without_a_place_for_its_patch(
    fields: dict[str, object], problem: str, make_suite: MakeSuite
) -> None:
    assert problems(make_suite, defenses=[{"name": "pbat", **fields}]) == [f"defenses[0].{problem}"]


def test_the_same_box_on_an_attack(make_suite: MakeSuite) -> None:
    (found,) = problems(make_suite, attacks=[{"name": "rao", "size": 8, "excluded": [4, 4, 8, 8]}])
    assert found.startswith("attacks[0].excluded: expected room for a patch of 8 x 8")


@pytest.mark.parametrize(
    ("defense", "batch", "problem"),
    [
        ({"name": "qadtr"}, 1, LONE.format("qadtr")),
        ({"name": "triqdef", "patches": "on_the_fly"}, 1, LONE.format("triqdef")),
        ({"name": "pbat", "adversarial_share": 0.3}, 3, LONE.format("pbat").replace("2", "4").replace("1", "3")),
        ({"name": "at_pgd", "adversarial_share": 0.5}, 1, LONE.format("at_pgd")),
        ({"name": "pbcat", "adversarial_share": 0.5, "size": 4}, 1, LONE.format("pbcat")),
    ],
)
def test_a_batch_too_small_to_be_attacked_in_part(
    defense: dict[str, object], batch: int, problem: str, make_suite: MakeSuite
) -> None:
    found = problems(make_suite, defenses=[defense], training={"batch_size": batch})
    assert found == [f"training.batch_size: {problem}"]
    assert make_suite(defenses=[defense], training={"batch_size": batch, "epochs": 0})  # nothing is trained
    found = problems(make_suite, defenses=[defense], finetuning={"batch_size": 40, "images_per_epoch": batch})
    assert found == [f"finetuning.images_per_epoch: {problem}"]


def test_bits_that_a_defense_cannot_share(make_suite: MakeSuite) -> None:
    found = problems(make_suite, quantizers=[{"name": "qat", "bits": [32, "w4a8"]}], defenses=["qat", "qadtr"])
    assert found == [
        "defenses[1]: qadtr: draw: tied trains equal widths of weights and activations, found w4a8 among the bits; "
        "leave them out or use draw: independent"
    ]


@pytest.mark.parametrize("quantizer", ["qat", "ptq", "dynamic"])
def test_a_quantizer_with_nothing_to_calibrate_on(quantizer: str, make_suite: MakeSuite) -> None:
    wanted = {
        "quantizers": [{"name": quantizer, "bits": [32, 4]}],
        "defenses": ["qat" if quantizer == "qat" else "none"],
    }
    dataset = {"name": "fake", "image_size": 16, "calibration_images": 0}
    mode = {"ptq": "ptq-minmax"}.get(quantizer, quantizer)
    assert problems(make_suite, dataset=dataset, **wanted) == [
        f"quantizers[0]: {mode} is calibrated on images: {NOTHING}"
    ]
    assert make_suite(dataset=dataset, quantizers=["fp"], defenses=["none"])


def test_a_preprocessor_with_nothing_to_learn_from(make_suite: MakeSuite) -> None:
    dataset = {"name": "fake", "image_size": 16, "calibration_images": 0}
    found = problems(
        make_suite, dataset=dataset, quantizers=["fp"], defenses=["none"], preprocessors=["patchcleanser", "smoothing"]
    )
    assert found == [f"preprocessors[0]: patchcleanser learns from images held out: {NOTHING}"]


def test_patches_and_layers_that_come_twice(make_suite: MakeSuite) -> None:
    twice = [{"name": "lavan", "size": 4}, {"name": "lavan", "size": 4, "steps": 3}]
    assert problems(make_suite, pool={"seen": twice}) == [
        "pool.seen[1]: expected distinct entries, found 'lavan, 4x4' twice; tell them apart with label"
    ]
    pool, layers = {"seen": twice[:1]}, ["stage1", "stage1"]
    assert problems(make_suite, defenses=[{"name": "triqdef", "layers": layers}], pool=pool) == [
        "defenses[0].layers: expected every layer once, found stage1 repeatedly"
    ]


def test_what_fits_says_nothing(make_suite: MakeSuite) -> None:
    suite = make_suite(preprocessors=["lgs", "smoothing"])
    known = Announced(side=16, classes=10, calibration=1, craft=10)
    assert [problem for part in (*suite.attacks, *suite.preprocessors) for problem in part.misfits(known)] == []
