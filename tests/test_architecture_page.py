"""docs/architecture.md: each path that it names is there, and so is each folder of its picture."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PICTURE = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")


def test_every_path_of_the_page_exists() -> None:
    named = re.findall(r"`((?:qpatchbench|tests|suites|results|docs)/[^`]*)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_question_has_one_path_for_an_answer() -> None:
    rows = re.findall(r"^\| (.+\?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    answers = [answer for _, answer in rows]
    assert [answer for answer in answers if not re.fullmatch(r"`qpatchbench/[\w/.]+`", answer)] == []
    assert len(set(answers)) == len(answers)


def test_every_folder_of_the_picture_exists() -> None:
    paths = [part for part in ElementTree.fromstring(PICTURE).iter() if part.get("font-family") == "monospace"]
    named = {word for part in paths for text in part.itertext() for word in text.replace("|", " ").split()}
    assert {"suite/file", "suite/jobs", "suite/work", "runs", "report/leaderboard", "report/page"} <= named
    package = ROOT / "qpatchbench"
    assert [name for name in named if not ((package / name).is_dir() or (package / f"{name}.py").is_file())] == []


def test_every_part_of_the_package_is_in_the_picture_or_below_the_surface() -> None:
    below = {"api", "cli", "testing", "scaffold"}  # they call, show, check or write; nothing flows through them
    parts = {path.parent.name for path in (ROOT / "qpatchbench").glob("*/__init__.py")} - below
    assert [part for part in sorted(parts) if not re.search(rf"\b{part}\b", PICTURE)] == []
