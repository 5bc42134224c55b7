"""Runs that are killed at random moments, again and again: in the end the bytes are those of an undisturbed run."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cli.conftest import SUITE
from tests.faults.company import started
from tests.faults.forking import Forks
from tests.faults.serial import Tiny

KILLS = 50
SEED = 18
KILLED = -9


def command(tiny: Tiny) -> tuple[str, ...]:
    """A run of the tiny suite in a folder of its own."""
    tiny.root.mkdir(exist_ok=True)
    (tiny.root / "tiny.yaml").write_text(SUITE)
    return ("run", str(tiny.root / "tiny.yaml"), "--output", str(tiny.output), "--display", "plain", "--device", "cpu")


def trials() -> Iterator[tuple[str, bool]]:
    """(moment of the kill, whether the run that was killed then ended as if nothing had happened)."""
    draws = random.Random(SEED)
    with tempfile.TemporaryDirectory() as temporary, Forks() as forks:
        whole = Tiny(Path(temporary) / "whole")
        begun = time.monotonic()
        assert ended(forks, whole) == 0, (whole.root / "log").read_text()
        length = time.monotonic() - begun
        alone = Tiny(Path(temporary) / "alone")
        command(alone)
        assert started(alone.root).wait() == 0
        assert alone.results() == whole.results(), "a fork computes what a process of its own does"
        killed = number = 0
        while killed < KILLS:
            tiny, number = Tiny(Path(temporary) / str(number)), number + 1
            moments: list[float] = []
            while (code := ended(forks, tiny, moment := length * draws.uniform(0, 1))) == KILLED:
                moments.append(moment)
            text = (tiny.root / "log").read_text()
            held = code == 0 and "Traceback" not in text and tiny.results() == whole.results()
            yield from ((f"run {number}, killed after {moment:.2f} s", held) for moment in moments)
            killed += len(moments)


def ended(forks: Forks, tiny: Tiny, after: float | None = None) -> int:
    """Start the run, or go on with it, until it ends or is killed; its exit code."""
    arguments = command(tiny)
    process = forks.start(*arguments, log=tiny.root / "log", QPATCHBENCH_CACHE=str(tiny.cache))
    return forks.end(process, after)
