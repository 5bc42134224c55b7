"""The forgeries of tests/cli/test_forgeries.py, against `qpatchbench verify` with the true checkpoints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from qpatchbench.cli import cli
from tests.cli.test_forgeries import FORGERIES
from tests.faults.serial import Tiny


def trials() -> Iterator[tuple[str, bool]]:
    """(forgery, whether it was found)."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Tiny(Path(temporary) / "whole")
        whole.root.mkdir()
        assert whole.run() == ""
        for name, forge in FORGERIES.items():
            place = whole.copied(Path(temporary) / "forged")
            forge(place.output)
            environment = {"QPATCHBENCH_CACHE": str(place.cache)}
            result = CliRunner().invoke(cli, ["verify", str(place.output)], standalone_mode=False, env=environment)
            yield name, result.exception is None and result.return_value == 1
            shutil.rmtree(place.root)
