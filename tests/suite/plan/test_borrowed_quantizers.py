"""Quantizers that deploy what another one trained: which checkpoint they read, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.types import Bits
from tests.suite.conftest import MakePlan, MakeSuite

QAT = {"name": "qat", "bits": [32, 8, 4]}


def test_random_precision_reads_the_checkpoint_of_qat(plan_of: MakePlan) -> None:
    plan = plan_of(quantizers=[QAT, {"name": "random_precision", "bits": [8]}], transfer={"sources": ["same"]})
    networks = {
        (job.quantizer.name, str(job.bits)): job.checkpoint.key for job in plan.jobs if isinstance(job, DeployJob)
    }
    assert networks[("random_precision", "8")] == networks[("qat", "8")]
    assert sum(job.kind == "train" for job in plan.jobs) == 1


def test_it_reads_the_group_that_its_width_belongs_to(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=[{"name": "qat", "joint": False}],
        quantizers=[QAT, {"name": "random_precision", "bits": [4]}],
        transfer={"sources": ["same"]},
    )
    network = next(job for job in plan.jobs if isinstance(job, DeployJob) and job.quantizer.name == "random_precision")
    assert network.checkpoint.bits == (Bits.parse(4),)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"quantizers": [{"name": "random_precision", "bits": [8]}]},
            "random_precision deploys what another quantizer trains: list qat before it",
        ),
        (
            {"quantizers": [QAT, {"name": "random_precision", "bits": [8, 5]}]},
            "random_precision deploys what qat trains: expected one of 32, 8, 4, found 5",
        ),
        (
            {"quantizers": [QAT, {"name": "random_precision", "bits": [8]}], "defenses": ["qat", "none"]},
            "the defense 'none' trains none: add exclude",
        ),
    ],
)
def test_what_cannot_be_borrowed_is_explained(make_suite: MakeSuite, sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(SuiteError) as raised:
        make_suite(**sections)
    assert expected in str(raised.value)
