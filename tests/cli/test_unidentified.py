"""What cannot be identified is computed anew by every run, kept nowhere, and said so once."""

from __future__ import annotations

import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from qpatchbench.cli import cli
from qpatchbench.registry import ATTACKS, Entry
from tests.distributions import write

SUITE = """
suite: mine
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 60, test_pool: 12, calibration_images: 8, craft_images: 8}
models: [resnet20]
training: {epochs: 1, batch_size: 32, augmentation: none}
defenses: [none]
quantizers: [fp]
attacks: [{name: mine, size: 3, targets: untargeted}]
evaluation: {images: 12}
"""
MINE = '''
import torch
from qpatchbench.attacks.base import Attack
from qpatchbench.types import CraftTask, Patch

class Mine(Attack):
    """One grey square."""

    def craft(self, task: CraftTask) -> Patch:
        """A texture per goal."""
        textures = torch.full((len(task.goals), 3, 3, 3), 0.5)
        return Patch(textures, torch.ones_like(textures[:, :1]), task.goals)
'''
SHAPED = 'square."""\n\n    shape: Callable[[float], float] = sin\n'
CALLABLE = f"from collections.abc import Callable\nfrom math import sin\n{MINE}".replace('square."""\n', SHAPED)
NO_FILE = "no file holds the source of {}:Mine"


@dataclass(frozen=True)
class Desk:
    """Where suites run."""

    folder: Path

    def run(self, *more: str) -> Result:
        """The suite, into the same folder with the same cache each time."""
        path = self.folder / "mine.yaml"
        path.write_text(SUITE)
        environment = {"QPATCHBENCH_CACHE": str(self.folder / "cache"), "QPATCHBENCH_DATA": None}
        options = ["--output", str(self.folder / "run"), "--display", "plain", *more]
        result = CliRunner().invoke(cli, ["run", str(path), *options], standalone_mode=False, env=environment)
        assert result.exception is None, result.output
        assert result.return_value == 0, result.output
        return result

    def kept(self, kind: str) -> int:
        """Artifacts of a kind in the cache."""
        return len(list((self.folder / "cache" / kind).rglob("*.json")))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.syspath_prepend(str(tmp_path))
    known = dict(vars(ATTACKS))
    yield Desk(tmp_path)
    vars(ATTACKS).clear()
    vars(ATTACKS).update(known)
    for name in ("packed_plugin", "called_plugin", "whole_plugin"):
        sys.modules.pop(name, None)


def typed_in(name: str, monkeypatch: pytest.MonkeyPatch, **facts: str) -> None:
    """Run code that no file holds in a module of this name."""
    module = types.ModuleType(name)
    vars(module).update(facts)
    exec(MINE, vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    ATTACKS.add("mine", Entry(f"{name}:Mine", "mine", plugin="mine"))


def test_code_that_was_typed_in(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    typed_in("typed_in", monkeypatch)
    expect_passing(desk, NO_FILE.format("typed_in"))


def test_code_that_was_typed_into_a_program_that_has_a_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write(desk.folder, {"launcher.py": "x = 1\n"})
    typed_in("__main__", monkeypatch, __file__=str(desk.folder / "launcher.py"))
    expect_passing(desk, NO_FILE.format("__main__"))


def test_code_in_an_archive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(desk.folder / "packed.zip", "w") as archive:
        archive.writestr("packed_plugin.py", MINE)
    monkeypatch.syspath_prepend(str(desk.folder / "packed.zip"))
    ATTACKS.add("mine", Entry("packed_plugin:Mine", "mine", plugin="packed_plugin"))
    expect_passing(desk, NO_FILE.format("packed_plugin"))


def test_a_field_that_holds_code(desk: Desk) -> None:
    write(desk.folder, {"called_plugin.py": CALLABLE})
    ATTACKS.add("mine", Entry("called_plugin:Mine", "mine", plugin="called_plugin"))
    expect_passing(desk, "the field shape holds code, which no result can name")


def test_code_that_a_file_holds_is_kept(desk: Desk) -> None:
    write(desk.folder, {"whole_plugin.py": MINE})
    ATTACKS.add("mine", Entry("whole_plugin:Mine", "mine", plugin="whole_plugin"))
    assert "not kept in the cache" not in desk.run().output
    assert "nothing to do" in desk.run().output


def expect_passing(desk: Desk, reason: str) -> None:
    """Two runs compute the same twice; only what the attack has no part in stays in the cache."""
    told = f"attack mine: {reason}; what is made with it is not kept in the cache, and every run makes it again"
    for run in range(2):
        output = desk.run().output
        assert output.count(told) == 1, output
        assert ("craft mine" in output, "train resnet20" in output) == (True, run == 0)
        assert (desk.kept("train"), desk.kept("deploy"), desk.kept("craft"), desk.kept("evaluate")) == (1, 1, 2, 2)
    records = pd.read_parquet(desk.folder / "run" / "cells.parquet")
    assert {text.endswith("not identified, so not cached") for text in records["plugins"][~records["control"]]} == {
        True
    }


def test_code_that_no_worker_could_import_runs_in_this_process(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    typed_in("typed_in", monkeypatch)
    output = desk.run("--executor", "process", "--workers", "2").output
    assert output.count("every run makes it again, here and not by workers") == 1, output
