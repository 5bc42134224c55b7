"""Kills, damage, forgeries, fuzzed files and company, tried and counted: `python -m tests.faults --help`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults import company, damage, executors, forgeries, fuzzing, kills

ROWS: dict[str, Callable[[], Iterator[tuple[str, bool]]]] = {
    "kills of serial runs at random moments": kills.trials,
    "kills of workers and runs (process)": lambda: executors.trials("process"),
    "kills of workers, drivers, heads and runs (ray)": lambda: executors.trials("ray"),
    "two and four processes, one output": company.trials,
    "damaged files, four ways": damage.trials,
    "forgeries": forgeries.trials,
    "fuzzed files": fuzzing.trials,
}
# Rows that follow one another; each lane has a core of its own.
LANES = (tuple(ROWS)[:4], tuple(ROWS)[4:])


def main() -> int:
    """Print tried and held of every row; 1 where one did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", help="rows whose name starts so, one by one; default: all")
    wanted = tuple(parser.parse_args().only or ())
    if wanted:
        return max((_tried(name) for name in ROWS if name.startswith(wanted)), default=0)
    started = time.monotonic()
    with ThreadPoolExecutor(len(LANES)) as lanes:
        failed = any(lanes.map(_lane, LANES))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{time.monotonic() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors"
    print(f"{'all rows':50} {'not all held' if failed else 'all held'} ({seconds})")
    return 1 if failed else 0


def _lane(names: Sequence[str]) -> bool:
    """Rows in processes of their own, so that no row starts with what another one left; whether one did not hold."""
    command = [sys.executable, "-m", "tests.faults", "--only"]
    return any([subprocess.run([*command, name], check=False).returncode for name in names])


def _tried(name: str) -> int:
    started, found = time.monotonic(), list(ROWS[name]())
    wrong = [text for text, held in found if not held]
    seconds = time.monotonic() - started
    print(f"{name:50} tried {len(found):5}, held {len(found) - len(wrong):5} ({seconds:.0f} s)", flush=True)
    for text in wrong[:10]:
        print(f"    {text}", flush=True)
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
