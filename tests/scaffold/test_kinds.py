"""Every kind of package as it is written: it passes its own tests and the checks of its kind; its suite is valid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.scaffold import KINDS, scaffold
from tests.distributions import write
from tests.scaffold.installed import installed


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_what_its_kind_must_keep_and_its_suite_is_valid(kind: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    write(package, scaffold(kind, f"new_{kind}"))
    with installed(package, tmp_path / "metadata"):
        runner = CliRunner()
        checked = runner.invoke(cli, ["plugin", "check", f"qpatchbench_new_{kind}"], standalone_mode=False)
        assert checked.exception is None, checked.output
        assert not checked.return_value, checked.output
        suite = str(package / "suite.yaml")
        valid = runner.invoke(cli, ["validate", suite], standalone_mode=False)
        assert valid.output == f"{suite}: valid\n"
        described = runner.invoke(cli, ["describe", kind, f"new_{kind}"], standalone_mode=False)
        assert "source: " in described.output, "the paper is named"


def test_they_pass_their_own_tests(tmp_path: Path) -> None:
    """Without the conformance checks, which the test above has run; one process, because torch takes its time."""
    for kind in KINDS:
        write(tmp_path / kind, scaffold(kind, f"new_{kind}"))
    path = os.pathsep.join(map(str, [*(tmp_path / kind for kind in KINDS), Path(__file__).parents[2]]))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not conformance", *KINDS],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= 2 * len(KINDS)
