"""Commands that the documents show, in the order in which a reader meets them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PROGRAMS = ("qpatchbench", "make", "pip", "pytest", "python", "pre-commit", "ray")
# A heading, a block with its language, or code within a line; what comes first in the text wins.
PARTS = re.compile(r"^## [^\n]*$|^```(\w*)\n(.*?)^```$|`([^`\n]+(?:\n[^`\n]+)?)`", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s+# .*$")


class Shown(NamedTuple):
    """A command in a document.

    Attributes:
        document: path below the root of the repository.
        line: from 1.
        text: as shown, without the comment behind it; a whole script has several lines.
        section: number of the `##` heading above it: what a reader entered with `cd` ends there.
        in_block: and not within a sentence, which is about no folder but the clone.
    """

    document: str
    line: int
    text: str
    section: int
    in_block: bool = True


def documents() -> list[str]:
    """README, CONTRIBUTING and the pages of docs/."""
    return ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]


def shown(document: str) -> list[Shown]:
    """Every command of a document once; of a block, each time."""
    found: list[Shown] = []
    text, section = (ROOT / document).read_text(encoding="utf-8"), 0
    for part in PARTS.finditer(text):
        language, block, code = part.groups()
        line = text.count("\n", 0, part.start()) + 1
        if block is not None:
            lines = {"": block.splitlines(), "sh": [block]}.get(language, [])
            found += [Shown(document, at, COMMENT.sub("", each), section) for at, each in enumerate(lines, line + 1)]
        elif code is not None:
            command = " ".join(code.split())
            new = command not in {each.text for each in found}
            found += [Shown(document, line, command, section, in_block=False)] if new and is_command(command) else []
        else:
            section += 1
    return found


def is_command(code: str) -> bool:
    """Whether code within a line is a command, and not a name, a file or Python."""
    program, _, rest = code.partition(" ")
    return program in PROGRAMS and bool(rest)
