"""The way of someone who contributes a defense: in an environment of their own, without touching this repository.

The commands are those that the generated README says; the last one is only made shorter.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shlex
import subprocess
from pathlib import Path

import pytest

import qpatchbench
from qpatchbench.scaffold import FIRST_COMMANDS
from tests.scaffold.environment import Environment

ROOT = Path(qpatchbench.__file__).parents[1]
NAME, MODULE = "stranger_things", "qpatchbench_stranger_things"
SHORTER = (
    "--display none --limit 60 --set training.epochs=1 --set training.images_per_epoch=128 --set finetuning.epochs=1 "
    "--set finetuning.images_per_epoch=128 --set attacks.0.steps=4"
)


def typed(environment: Environment, command: str, folder: Path) -> str:
    """Run as typed, in `folder`; its standard output."""
    result = subprocess.run(
        shlex.split(command), cwd=folder, env=environment.variables(folder / "cache"),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def fingerprint() -> dict[str, str]:
    """Files of the repository that someone could be tempted to edit, and their content."""
    folders = [ROOT / "qpatchbench", ROOT / "suites"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), ROOT)


def test_from_nothing_to_a_row_in_the_leaderboard(environment: Environment, tmp_path: Path) -> None:
    before = fingerprint()
    typed(environment, f"qpatchbench plugin new defense {NAME}", tmp_path)
    package = tmp_path / f"qpatchbench-{NAME.replace('_', '-')}"
    commands = (package / "README.md").read_text().split("```\n")[1].splitlines()
    assert commands == [command.format(module=MODULE) for command in FIRST_COMMANDS]
    install, check, test, run = commands

    typed(environment, install, package)
    listed = json.loads(typed(environment, "qpatchbench list defenses --json", tmp_path))
    (mine,) = (row for row in listed if row["name"] == NAME)
    assert mine["plugin"] == "qpatchbench-stranger-things"
    assert "arXiv 1708.04552" in mine["reference"]
    assert "share of the images that get a square" in typed(
        environment, f"qpatchbench describe defense {NAME}", tmp_path
    )

    typed(environment, check, package)
    assert " passed" in typed(environment, test, package)

    typed(environment, f"{run} {SHORTER}", package)
    with (package / "results" / NAME / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["defense"] for row in rows} == {"qat", NAME}
    assert {row["target_bits"] for row in rows if row["defense"] == NAME} == {"32", "4"}
    assert all(row["n_images"] == "60" for row in rows)

    assert fingerprint() == before


def test_contributing_says_the_same_commands() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A defense in half an hour")[2]
    expected = [f"qpatchbench plugin new defense {NAME}", f"cd qpatchbench-{NAME.replace('_', '-')}"]
    expected += [command.format(module=MODULE) for command in FIRST_COMMANDS]
    assert section.split("```\n")[1].splitlines() == expected
