"""`python -m tests.portable`: the numerical tests under every instruction set that this processor can play.

A test marked `numerical` compares what a training, a search or a kernel came to with a threshold. Its last bits depend
on the kernels that were chosen for the processor and on how many threads shared a sum, and one short search follows
such bits to another end. Torch, oneDNN and MKL choose by themselves, but can be told to choose as on a lesser
processor; each of their instruction sets is played with one thread and with two. `--seeds N` adds N runs with other
random numbers, which is how the margin of a new threshold is measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
# What torch calls the set -> how each library is told to use no more than it. MKL's COMPATIBLE is SSE2.
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "DEFAULT": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
THREADS = (1, 2)


@dataclass(frozen=True)
class Setting:
    """One run of the numerical tests.

    Attributes:
        title: as it is printed.
        environment: variables of the run.
        threads: of torch; with one, two processes share the tests.
        shift: of all seeds.
    """

    title: str
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    shift: int = 0


@dataclass(frozen=True)
class Outcome:
    """How many tests ran under a setting, and those that did not hold, in the words of pytest."""

    tried: int
    broken: tuple[str, ...]


def playable() -> Iterator[str]:
    """The instruction sets that torch really uses when told to."""
    for name, environment in INSTRUCTION_SETS.items():
        answer = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        if answer.stdout.strip() == name:
            yield name


def settings(names: Sequence[str], seeds: int) -> Iterator[Setting]:
    """Every instruction set with every number of threads, then other seeds as the processor likes it."""
    for name in names:
        for threads in THREADS:
            yield Setting(f"{name}, threads {threads}", INSTRUCTION_SETS[name], threads)
    for shift in range(1, seeds + 1):
        yield Setting(f"seeds shifted by {shift}", shift=shift)


def run(setting: Setting, arguments: list[str]) -> Outcome:
    """The numerical tests under a setting; their output is shown where pytest itself failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "numerical",
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
        ]
        workers = ["-n", "2", "--dist", "worksteal"] if setting.threads == 1 else []
        done = subprocess.run(
            [*command, *workers, f"--shift-seeds={setting.shift}", *arguments],
            cwd=ROOT,
            # Threads that wait without spinning do not slow each other down on a machine that is busy.
            env={
                **os.environ, **setting.environment, "OMP_NUM_THREADS": str(setting.threads),
                "OMP_WAIT_POLICY": "PASSIVE",
            },
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if done.returncode not in (0, 1):
            raise SystemExit(f"pytest ended with {done.returncode} under {setting.title}\n{done.stdout}{done.stderr}")
        return read(report)


def read(report: Path) -> Outcome:
    """What a JUnit file says; a test that was skipped was not tried."""
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.find("skipped") is None]
    broken = []
    for case in cases:
        found = case.find("failure")
        found = case.find("error") if found is None else found
        if found is not None:
            message = found.get("message", "").splitlines()
            broken.append(f"{case.get('classname')}::{case.get('name')}: {message[0] if message else ''}")
    return Outcome(len(cases), tuple(broken))


def main() -> None:
    """Print how many tests held under each setting, and which did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="also N runs with other random numbers")
    parser.add_argument("tests", nargs="*", help="files or folders, as pytest takes them; all by default")
    chosen = parser.parse_args()
    names = tuple(playable())
    missing = [name for name in INSTRUCTION_SETS if name not in names]
    if missing:
        print(f"not playable on this processor: {', '.join(missing)}")
    worst = 0
    for setting in settings(names, chosen.seeds):
        begun = time.monotonic()
        outcome = run(setting, chosen.tests)
        held = outcome.tried - len(outcome.broken)
        print(f"{setting.title}: {held} of {outcome.tried} held, {time.monotonic() - begun:.0f} s", flush=True)
        for name in outcome.broken:
            print(f"    {name}", flush=True)
        if not outcome.tried:
            raise SystemExit("no test is marked numerical there: nothing was tried")
        worst = max(worst, len(outcome.broken))
    raise SystemExit(1 if worst else 0)


if __name__ == "__main__":
    main()
