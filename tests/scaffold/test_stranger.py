"""The way of someone who contributes a defense: in an environment of their own, without touching this repository.

The commands are those that the generated README says; the last one is only made shorter.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import site
import subprocess
import sys
from pathlib import Path

import pytest

import qpatchbench
from qpatchbench.scaffold import FIRST_COMMANDS

ROOT = Path(qpatchbench.__file__).parents[1]
NAME, MODULE = "stranger_things", "qpatchbench_stranger_things"
SHORTER = (
    "--display none --limit 60 --set training.epochs=1 --set training.images_per_epoch=128 --set finetuning.epochs=1 "
    "--set finetuning.images_per_epoch=128 --set attacks.0.steps=4"
)


class Environment:
    """A virtual environment that sees this package and everything it needs, and what is installed in itself."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        self.bin = folder / "bin"
        (packages,) = folder.glob("lib/python*/site-packages")
        # Not a plain path: the environment around may have links of its own, as editable installations make them.
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "around.pth").write_text("\n".join([*lines, str(ROOT), ""]))
        self.script("qpatchbench", "from qpatchbench.cli import main; main()")
        self.script("pytest", "import pytest; sys.exit(pytest.main())")
        # No network, and no environment made just for building: everything needed is here.
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        self.script("pip", f"sys.argv[2:2] = {options}; import runpy; runpy.run_module('pip', run_name='__main__')")

    def script(self, name: str, code: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{self.bin / 'python'}\nimport sys; {code}\n")
        path.chmod(0o755)

    def run(self, command: str, folder: Path) -> str:
        """Run as typed, in `folder`; its standard output."""
        own = {"PATH": f"{self.bin}:{os.environ['PATH']}", "QPATCHBENCH_CACHE": str(folder / "cache")}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
        result = subprocess.run(
            shlex.split(command), cwd=folder, env={**kept, **own},
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
    return Environment(tmp_path_factory.mktemp("environment"))


def test_from_nothing_to_a_row_in_the_leaderboard(environment: Environment, tmp_path: Path) -> None:
    before = fingerprint()
    environment.run(f"qpatchbench plugin new defense {NAME}", tmp_path)
    package = tmp_path / f"qpatchbench-{NAME.replace('_', '-')}"
    commands = (package / "README.md").read_text().split("```\n")[1].splitlines()
    assert commands == [command.format(module=MODULE) for command in FIRST_COMMANDS]
    install, check, test, run = commands

    environment.run(install, package)
    listed = json.loads(environment.run("qpatchbench list defenses --json", tmp_path))
    (mine,) = (row for row in listed if row["name"] == NAME)
    assert mine["plugin"] == "qpatchbench-stranger-things"
    assert "arXiv 1708.04552" in mine["reference"]
    assert "share of the images that get a square" in environment.run(f"qpatchbench describe defense {NAME}", tmp_path)

    environment.run(check, package)
    assert " passed" in environment.run(test, package)

    environment.run(f"{run} {SHORTER}", package)
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
