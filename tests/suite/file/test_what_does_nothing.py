"""Fields that would change nothing, or compute something else than they say, are refused where they stand."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.errors import SuiteError
from tests.suite.conftest import MakeSuite

FEWER = "expected fewer pixels than the 13 places that lavan, 4x4, has on 16 pixels, since patches wrap around"
HALF = {"precision": "bf16-mixed"}


def problem(make_suite: MakeSuite, **sections: object) -> str:
    with pytest.raises(SuiteError) as caught:
        make_suite(**sections)
    (text,) = caught.value.problems
    return text.partition(": ")[2]


@pytest.mark.parametrize(
    ("shift", "found"),
    [
        ([13, 0], f"{FEWER}; found 13, 0"),
        ([0, -26], f"{FEWER}; found 0, -26"),
        ([15, 2], f"{FEWER}; found 15, 2"),
        ([0, 0], "expected a shift that moves patches, found none in either direction"),
    ],
)
def test_a_shift_that_moves_nothing_or_something_else_is_refused(
    shift: list[int], found: str, make_suite: MakeSuite
) -> None:
    assert problem(make_suite, sweep={"shifts": [[2, 2], shift]}) == f"sweep.shifts[1]: {found}"


def test_a_patch_that_fills_the_image_cannot_be_shifted(make_suite: MakeSuite) -> None:
    attacks = [{"name": "lavan", "size": 16}]
    assert "than the 1 places" in problem(make_suite, attacks=attacks, sweep={"shifts": [[1, 0]]})


@pytest.mark.parametrize("angle", [0, 0.0, 360, -720, 365])
def test_a_rotation_that_turns_nothing_or_by_another_angle_is_refused(angle: float, make_suite: MakeSuite) -> None:
    expected = f"sweep.rotations[0]: expected an angle that turns, between -360 and 360, found {angle:g}"
    assert problem(make_suite, sweep={"rotations": [angle]}) == expected


def test_shifts_and_rotations_that_move_are_kept(make_suite: MakeSuite) -> None:
    suite = make_suite(sweep={"shifts": [[12, 0], [0, -12], [1, 1]], "rotations": [-359, 0.5]})
    assert len(suite.sweep.shifts) == 3


def test_bfloat16_keeps_769_of_the_levels_of_12_bits() -> None:
    assert [len(set(torch.arange(2**bits).bfloat16().tolist())) for bits in (12, 8)] == [769, 256]


@pytest.mark.parametrize("bits", [9, 12, 16, "w4a12", "w12a4"])
def test_bfloat16_is_refused_under_finer_grids(bits: int | str, make_suite: MakeSuite) -> None:
    collapse = (
        f"at {bits} bits, whose levels bf16-mixed cannot tell apart (it has 8 significant bits), found bf16-mixed"
    )
    qat = {"quantizers": [{"name": "qat", "bits": [32, 8, bits]}]}
    found = problem(make_suite, **qat, training=HALF)
    assert found == f"training.precision: expected 32-true, since networks are trained {collapse}"
    found = problem(make_suite, **qat, finetuning=HALF)
    assert found == f"finetuning.precision: expected 32-true, since networks are trained {collapse}"
    attacks = [{"name": "lavan", "size": 4, **HALF}]
    found = problem(make_suite, **qat, attacks=attacks)
    assert found == f"attacks[0].precision: expected 32-true, since patches are crafted {collapse}"


def test_bfloat16_is_kept_where_its_grid_is_fine_enough(make_suite: MakeSuite) -> None:
    half = {"training": HALF, "attacks": [{"name": "lavan", "size": 4, **HALF}]}
    make_suite(quantizers=[{"name": "qat", "bits": [32, 8, "w4a8"]}], **half)
    # A float network in bfloat16 is no grid, whatever is then deployed; and patches made at 32 bits meet none.
    twelve = [{"name": "ptq", "bits": [12]}]
    make_suite(defenses=["none"], quantizers=twelve, **half, transfer={"sources": [32]})
    # Float weights are trained in full, then fine-tuned with quantizers in float32.
    make_suite(quantizers=[{"name": "qat", "bits": [32, 12]}], training=HALF, finetuning={"epochs": 1})
