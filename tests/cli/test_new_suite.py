"""Suites that come with the package, and suites that are written for a network."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from qpatchbench.suite.file.load import load_suite
from qpatchbench.suite.named.library import shipped
from qpatchbench.types import FLOAT
from tests.cli.own_networks import own_network
from tests.cli.running import ended

ROOT = Path(__file__).parents[2]
SUITES = {path.relative_to(ROOT / "suites").with_suffix("").as_posix() for path in (ROOT / "suites").glob("**/*.yaml")}


def test_every_suite_comes_with_the_package_and_is_found_by_name(tmp_path: Path) -> None:
    assert set(shipped()) == SUITES
    rows = json.loads(ended("list", "suites", "--json", folder=tmp_path).stdout)
    assert {row["name"] for row in rows} == SUITES
    done = ended("validate", "quickstart", "papers/cifar_sweep", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "quickstart: valid\npapers/cifar_sweep: valid\n")
    wrong = ended("validate", "quikstart", folder=tmp_path)
    assert (
        "quikstart: no such suite file. Did you mean: quickstart? With the package come: attack_ladder" in wrong.stderr
    )


def test_a_wheel_has_the_suites(tmp_path: Path) -> None:
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path / 'out')!r}))"
    folder = tmp_path / "copy"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "suites").symlink_to(ROOT / "suites")
    (folder / "qpatchbench").symlink_to(ROOT / "qpatchbench")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if name.startswith("qpatchbench/suite/library/")}
        assert inside == {f"qpatchbench/suite/library/{name}.yaml" for name in SUITES}
        assert file.read("qpatchbench/suite/library/quickstart.yaml") == (ROOT / "suites/quickstart.yaml").read_bytes()


def test_quickstart_does_what_its_description_says() -> None:
    suite = load_suite(ROOT / "suites/quickstart.yaml")
    assert "32 bits also to post-training and dynamic quantization" in " ".join(suite.description.split())
    assert FLOAT in suite.transfer.sources


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("--model", "resnet20"), {"name": "resnet20"}),
        (
            ("--model", "my_net.py:build", "--weights", "my.pt", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"),
            {
                "name": "module",
                "source": "my_net.py:build",
                "weights": "my.pt",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
            },
        ),
    ],
)
def test_a_suite_for_a_network(arguments: tuple[str, ...], model: dict[str, object], tmp_path: Path) -> None:
    own_network(tmp_path / "here", 10)
    done = ended("suite", "new", "here/mine.yaml", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "here/mine.yaml: written; qpatchbench run here/mine.yaml\n")
    text = (tmp_path / "here/mine.yaml").read_text()
    assert yaml.safe_load(text)["models"] == [model]
    assert text.count("\n#") >= 6
    again = ended("suite", "new", "here/mine.yaml", *arguments, folder=tmp_path)
    assert "here/mine.yaml: already there; choose another name" in again.stderr


def test_a_suite_that_would_be_wrong_is_not_written(tmp_path: Path) -> None:
    done = ended("suite", "new", "mine.yaml", "--model", "resnet21", folder=tmp_path)
    assert done.returncode == 2
    assert "unknown model 'resnet21'. Did you mean: resnet" in done.stderr
    assert not (tmp_path / "mine.yaml").exists()
    done = ended("suite", "new", "mine.yaml", "--model", "a.py:b", "--mean", "1,2", folder=tmp_path)
    assert "expected three numbers, such as 0.49,0.48,0.45, found '1,2'" in done.stderr
