"""The forgeries of tests/cli/forging.py, against `qpatchbench verify` with the true checkpoints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from qpatchbench.cli import cli
from tests.cli.forging import FORGERIES
from tests.faults.serial import Tiny


def trials() -> Iterator[tuple[str, bool]]:
    """(forgery, whether it was found, or told to be claimed)."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Tiny(Path(temporary) / "whole")
        whole.root.mkdir()
        assert whole.run() == ""
        shutil.rmtree(whole.output / "plots")
        for name in ("report.html", ".report.json"):
            (whole.output / name).unlink()
        for name, forge in FORGERIES.items():
            place = whole.copied(Path(temporary) / "forged")
            forge(place.output)
            environment = {"QPATCHBENCH_CACHE": str(place.cache)}
            for suite in ([], ["--suite", str(place.root / "tiny.yaml")]):
                told = ["verify", str(place.output), *suite]
                result = CliRunner().invoke(cli, told, standalone_mode=False, env=environment)
                found = result.exception is None and result.return_value in (1, 3)
                yield f"{name}{' against its suite' * bool(suite)}", found
            shutil.rmtree(place.root)
