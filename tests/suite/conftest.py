"""Small suites, planned with made-up hashes of images and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from qpatchbench.suite.file.load import load_suite
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.plan.plan import Plan, make_plan

BASE = {
    "suite": "small",
    "dataset": {"name": "fake", "image_size": 16},
    "models": ["resnet20"],
    "defenses": ["qat"],
    "quantizers": [{"name": "qat", "bits": [32, 4]}],
    "attacks": [{"name": "lavan", "size": 4}],
}

MakeSuite = Callable[..., Suite]
MakePlan = Callable[..., Plan]


@pytest.fixture
def make_suite(tmp_path: Path) -> MakeSuite:
    """A suite from sections that replace those of BASE; None leaves one out."""

    def made(**sections: object) -> Suite:
        path = tmp_path / "small.yaml"
        wanted = {name: value for name, value in {**BASE, **sections}.items() if value is not None}
        path.write_text(yaml.safe_dump(wanted, sort_keys=False))
        return load_suite(path)

    return made


@pytest.fixture
def plan_of(make_suite: MakeSuite) -> MakePlan:
    """The plan of such a suite; `data` changes the hashes of parts of the images, `weights` those of weights."""

    def planned(*, data: dict[str, str] | None = None, weights: str = "", **sections: object) -> Plan:
        suite = make_suite(**sections)
        keys = DataKeys(**{**{part: part for part in ("train", "calibration", "craft", "evaluation")}, **(data or {})})
        titles = [model.title for model in suite.models]
        return make_plan(suite, dict.fromkeys(titles, keys), dict.fromkeys(titles, weights))

    return planned
