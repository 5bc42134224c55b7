"""Kills, damage, forgeries, fuzzed files and company, tried and counted: `python -m tests.faults --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tests.faults import company, damage, executors, forgeries, fuzzing

ROWS: dict[str, Callable[[], Iterator[tuple[str, bool]]]] = {
    "kills of runs (serial)": lambda: executors.trials("serial"),
    "kills of workers and runs (process)": lambda: executors.trials("process"),
    "kills of workers, drivers, heads and runs (ray)": lambda: executors.trials("ray"),
    "damaged files, four ways": damage.trials,
    "forgeries": forgeries.trials,
    "fuzzed files": fuzzing.trials,
    "two and four processes, one output": company.trials,
}


def main() -> int:
    """Print tried and held of every row; 1 where one did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", help="rows whose name starts so; default: all")
    wanted = tuple(parser.parse_args().only or ("",))
    failed = 0
    for name, trials in ROWS.items():
        if not name.startswith(wanted):
            continue
        started, found = time.monotonic(), list(trials())
        wrong = [text for text, held in found if not held]
        failed += len(wrong)
        seconds = time.monotonic() - started
        print(f"{name:50} tried {len(found):5}, held {len(found) - len(wrong):5} ({seconds:.0f} s)", flush=True)
        for text in wrong[:10]:
            print(f"    {text}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
