"""The commands of every document, run and counted: `python -m tests.documents --help`."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.documents import changes, given
from tests.documents.reader import LOGS, Line, read
from tests.documents.reading import documents
from tests.documents.said import unsaid

LANES = 2  # readers at once; each computes with one thread


def main() -> int:
    """Print a line for each command; 1 where one failed, or where a change or an exception is of no use any more."""
    parser = argparse.ArgumentParser(prog="python -m tests.documents", description=__doc__)
    parser.add_argument("--only", action="append", help="documents whose path contains this; default: all")
    parser.add_argument("--cache", type=Path, help="cache of all readers; default: a new one")
    options = parser.parse_args()
    chosen = [name for name in documents() if not options.only or any(part in name for part in options.only)]
    if not chosen:
        parser.error(f"--only: expected a part of one of {', '.join(documents())}, found {', '.join(options.only)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qpatchbench-documents-") as folder:
        place = Path(folder)
        given.cifar10_of_digits(place / "data")
        reading = partial(read, place=place, cache=options.cache or place / "cache")
        with ThreadPoolExecutor(LANES) as lanes:
            # The quick start that the first one trains is in the cache when the last ones ask for it.
            lines = [line for found in lanes.map(reading, sorted(chosen, key=given.late)) for line in found]
    return told(lines, time.monotonic() - started, whole=not options.only)


def told(lines: Sequence[Line], seconds: float, whole: bool) -> int:
    """Print the sums, and what failed once more."""
    commands = [line.command for line in lines]
    unused = [*changes.unused(commands), *unsaid(commands)] if whole else []
    failed, left = [line for line in lines if line.failed], [line for line in lines if line.why]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"\n{len(lines)} commands: {len(lines) - len(left) - len(failed)} ended as they should, {len(failed)} failed, "
        f"{len(left)} not run ({seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors)\n"
        f"what they printed: {LOGS}"
    )
    for line in failed:
        print(line)
    for pattern in unused:
        print(f"no command needs {pattern!r} any more")
    return 1 if failed or unused or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
