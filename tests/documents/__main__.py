"""The commands of every document, run and counted: `python -m tests.documents --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.documents import changes, given
from tests.documents.clone import clone
from tests.documents.reading import ROOT, Shown, documents, shown
from tests.documents.shell import Ended, Shell

LOGS = ROOT / "build/documents"
LONGEST = 900  # seconds of one command
LANES = 2


class Line(NamedTuple):
    """One line of the table: a command, what was typed for it, and how that ended, or why it was left alone."""

    command: Shown
    typed: str
    ended: Ended | None
    why: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ended with another status than its document says."""
        return self.ended is not None and self.ended.status != changes.STATUSES.get(self.command.text, 0)

    def __str__(self) -> str:
        place = f"{self.command.document}:{self.command.line}"
        first = self.command.text.partition("\n")[0]
        if self.ended is None:
            return f"{place:28} {'':>8}  not run: {self.why:32} {first}"
        how = f"FAILED with {self.ended.status}:" if self.failed else "ended well:"
        instead = f"\n{'':28} {'':>8}  {'as':>9} {self.typed}" if self.typed != self.command.text else ""
        return f"{place:28} {self.ended.seconds:6.1f} s  {how} {first}{instead}"


def main() -> int:
    """Print a line for each command; 1 where one failed, or where a change or an exception is of no use any more."""
    parser = argparse.ArgumentParser(prog="python -m tests.documents", description=__doc__)
    parser.add_argument("--only", action="append", help="documents whose path contains this; default: all")
    parser.add_argument("--cache", type=Path, help="cache of all readers; default: a new one")
    parser.add_argument("--list", action="store_true", help="show what would be typed, and stop")
    options = parser.parse_args()
    chosen = [name for name in documents() if not options.only or any(part in name for part in options.only)]
    if options.list:
        for command in (command for name in chosen for command in shown(name)):
            print(f"{command.document}:{command.line}  {changes.why_not(command) or changes.typed(command)}")
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qpatchbench-documents-") as folder:
        place = Path(folder)
        given.cifar10_of_digits(place / "data")
        cache = options.cache or place / "cache"
        with ThreadPoolExecutor(LANES) as lanes:
            lines = [line for found in lanes.map(lambda name: read(name, place, cache), chosen) for line in found]
    unused = changes.unused([line.command for line in lines]) if not options.only else []
    failed, left = [line for line in lines if line.failed], [line for line in lines if line.ended is None]
    print(f"\n{len(lines)} commands: {len(lines) - len(left) - len(failed)} ended well, {len(failed)} failed, "
          f"{len(left)} not run; {time.monotonic() - started:.0f} s; what they printed is in {LOGS}")  # fmt: skip
    for line in failed:
        print(line)
    for pattern in unused:
        print(f"no command needs {pattern!r} any more")
    return 1 if failed or unused or not lines else 0


def read(document: str, place: Path, cache: Path) -> list[Line]:
    """Every command of a document in a clone of its own."""
    commands = shown(document)
    if not commands:
        return []
    folder = place / document.replace("/", "-") / "qpatchbench"
    environment = clone(folder)
    given.files(document, folder)
    shell = Shell(folder, folder.parent / "state", {**environment.variables(cache), "DIGITS": str(place / "data")})
    before = [Shown(document, 0, text, -1) for text in given.BEFORE.get(document, ())]
    lines, section = [], -1
    log = LOGS / f"{document.replace('/', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    for command in (*before, *commands):
        if command.section != section:
            shell.enters(folder)
        section = command.section
        why, typed = changes.why_not(command), changes.typed(command)
        ended = None if why else shell.types(typed if command.in_block else f"(cd {folder} && {typed}\n)", LONGEST)
        lines.append(Line(command, typed, ended, why))
        print(lines[-1], flush=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {typed}\n{ended.printed}[{ended.status}]\n\n" if ended else f"# {command.text}\n\n")
    return lines


if __name__ == "__main__":
    sys.exit(main())
