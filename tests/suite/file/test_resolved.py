"""A resolved suite, as a manifest keeps it, is the suite it was written from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.file.load import load_suite, suite_from

ROOT = Path(__file__).parents[3]
SUITES = sorted((ROOT / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_committed_suite_survives_its_manifest(path: Path) -> None:
    suite = load_suite(path)
    kept = json.loads(json.dumps(suite.resolved()))
    again = suite_from(kept, "manifest.json")
    assert again == suite.model_copy(update={"scales": {}}), "a scale that was chosen is in the values"
    assert again.resolved() == kept == json.loads(json.dumps(suite.resolved())), "the data are left as they were"


def test_a_resolved_suite_that_cannot_be_run_names_what_it_lacks() -> None:
    kept = load_suite(SUITES[0]).resolved()
    kept["attacks"][0]["name"] = "lavn"
    with pytest.raises(
        SuiteError, match=r"manifest\.json:1:1: attacks\[0\]\.name: unknown attack 'lavn'\. Did you mea"
    ):
        suite_from(kept, "manifest.json")
