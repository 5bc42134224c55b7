"""A tiny run in this process, what its bytes are, and commands that may fail but not with a traceback."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from click import ClickException
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.errors import QPatchBenchError
from tests.cli.conftest import SUITE

SAME = ("cells.parquet", "outcomes.parquet", "leaderboard.csv")


@dataclass(frozen=True)
class Tiny:
    """A suite with a cache and a run folder of its own."""

    root: Path

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.root / "out"

    @property
    def cache(self) -> Path:
        """Where its artifacts are."""
        return self.root / "cache"

    def run(self) -> str:
        """Run, or go on; what went wrong, "" where nothing did."""
        (self.root / "tiny.yaml").write_text(SUITE)
        return self.told("run", str(self.root / "tiny.yaml"), "--output", str(self.output), "--display", "none")

    def told(self, *arguments: str) -> str:
        """A command's error, if it is none that a user should see; "" where it worked or was refused with a reason."""
        environment = {"QPATCHBENCH_CACHE": str(self.cache), "QPATCHBENCH_DATA": str(self.root)}
        result = CliRunner().invoke(cli, list(arguments), standalone_mode=False, env=environment)
        expected = (QPatchBenchError, ClickException, SystemExit)
        if result.exception is None or isinstance(result.exception, expected):
            return "Traceback" if "Traceback (most recent" in result.output else ""
        return f"{type(result.exception).__name__}: {result.exception}"

    def results(self) -> tuple[bytes, ...]:
        """What must be the same again."""
        return tuple((self.output / name).read_bytes() for name in SAME)

    def copied(self, root: Path) -> Tiny:
        """The same elsewhere."""
        shutil.copytree(self.root, root)
        return Tiny(root)
