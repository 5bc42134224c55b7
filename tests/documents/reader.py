"""A reader of one document: a clone of the repository, and every command typed there, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.documents import changes, given
from tests.documents.clone import clone
from tests.documents.reading import ROOT, Shown, shown
from tests.documents.said import missing
from tests.documents.shell import Ended, Shell

LOGS = ROOT / "build/documents"
LONGEST = 1800  # seconds of one command


class Line(NamedTuple):
    """One line of the table: a command, what was typed for it, how that ended, or why it was left alone."""

    command: Shown
    typed: str
    ended: Ended | None
    why: str

    @property
    def failed(self) -> bool:
        """Whether it ended with another status than its document says, or printed something else."""
        return self.ended is not None and bool(
            self.ended.status != changes.STATUSES.get(self.command.text, 0) or missing(self.command, self.ended.printed)
        )

    def __str__(self) -> str:
        place = f"{self.command.document}:{self.command.line or 'before'}"
        first = self.command.text.partition("\n")[0]
        if self.ended is None:
            return f"{place:28} {'-':>7}  not run  {first}\n{'':38}{'because':>7}  {self.why}"
        how = f"FAILED {self.ended.status}" if self.failed else "ok"
        more = [] if self.typed == self.command.text else [f"{'':38}{'as':>7}  {self.typed}"]
        more += [f"{'':38}{'without':>7}  {said}" for said in missing(self.command, self.ended.printed)]
        return "\n".join([f"{place:28} {self.ended.seconds:5.1f} s  {how:7}  {first}", *more])


def read(document: str, place: Path, cache: Path) -> list[Line]:
    """Type every command of a document, print a line for each, and keep what it printed in LOGS.

    Args:
        document: path below the root.
        place: folder of all readers, with the digits in `data`.
        cache: of all readers.
    """
    commands = shown(document)
    if not commands:
        return []
    folder = place / document.replace("/", "-") / "qpatchbench"
    variables = {**clone(folder).variables(cache), "DIGITS": str(place / "data")}
    given.files(document, folder)
    shell = Shell(folder, folder.parent / "state", variables)
    lines: list[Line] = []
    log = LOGS / f"{document.replace('/', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    for command in (*given.before(document), *commands):
        if lines and command.section != lines[-1].command.section:
            shell.enters(folder)
        line = Line(command, changes.typed(command), None, changes.why_not(command))
        if not line.why:
            typed = line.typed if command.in_block else f"(cd {folder} && {line.typed}\n)"
            line = line._replace(ended=shell.types(typed, LONGEST))
        lines.append(line)
        print(line, flush=True)
        how = f"$ {line.typed}\n{line.ended.printed}[{line.ended.status}]" if line.ended else str(line)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{how}\n\n")
    return lines
