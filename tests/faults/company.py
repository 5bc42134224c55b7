"""Two and four processes that write into one run folder: one does, the others say why not; results are right."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cli.conftest import SUITE
from tests.faults.serial import SAME


def started(root: Path) -> subprocess.Popen[str]:
    """A run of the tiny suite in a process of its own."""
    command = [sys.executable, "-m", "qpatchbench", "run", str(root / "tiny.yaml"), "--output", str(root / "out")]
    return subprocess.Popen(
        [*command, "--display", "none", "--device", "cpu"],
        env={**os.environ, "QPATCHBENCH_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(root: Path) -> tuple[bytes, ...]:
    """What must be the same."""
    return tuple((root / "out" / name).read_bytes() for name in SAME)


def trials() -> Iterator[tuple[str, bool]]:
    """(how many processes, whether it held)."""
    with tempfile.TemporaryDirectory() as temporary:
        alone = Path(temporary) / "alone"
        alone.mkdir()
        (alone / "tiny.yaml").write_text(SUITE)
        assert started(alone).wait() == 0
        for number, count in enumerate((2, 2, 4, 4)):
            root = Path(temporary) / str(number)
            root.mkdir()
            (root / "tiny.yaml").write_text(SUITE)
            runs = [started(root) for _ in range(count)]
            texts = [run.communicate()[0] for run in runs]
            held = any(run.returncode == 0 for run in runs) and not any("Traceback" in text for text in texts)
            yield f"{count} processes, try {number}", held and results(root) == results(alone)
