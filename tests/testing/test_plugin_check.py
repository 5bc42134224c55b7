"""`qpatchbench plugin check`: what it finds, prints and returns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qpatchbench.cli import cli
from qpatchbench.errors import PluginError, UnknownNameError
from qpatchbench.registry import REGISTRIES
from qpatchbench.testing.targets import targets_of

HONEST = '''"""A flat square (somebody 2024)."""

from __future__ import annotations

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.types import CraftTask, Patch


class Flat(Attack):
    """A square of one random grey."""

    access = "none"

    def craft(self, task: CraftTask) -> Patch:
        side, count = self.size.side(task.images.side), len(task.goals)
        grey = torch.rand(count, 1, 1, 1, generator=task.generator)
        return Patch(grey.expand(count, 3, side, side).clone(), torch.ones(count, 1, side, side), task.goals)
'''
BROKEN = HONEST.replace("torch.rand(count, 1, 1, 1, generator=task.generator)", "torch.rand(count, 1, 1, 1)")
CATALOGUE = """
from qpatchbench.registry import Entry

CATALOGUES = {"attacks": {"flat_one": Entry(__name__ + ":Flat", "flat"), "flat_two": Entry(__name__ + ":Flat", "x")}}
"""


@pytest.fixture(autouse=True)
def clean_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    before = {kind: dict(registry.__dict__) for kind, registry in REGISTRIES.items()}
    modules = set(sys.modules)
    yield
    for kind, registry in REGISTRIES.items():
        registry.__dict__.clear()
        registry.__dict__.update(before[kind])
    for name in set(sys.modules) - modules:
        if "plugin_under_test" in name:
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"plugin_under_test_{name}.py"
    path.write_text(text)
    return str(path)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plugin", "check", *arguments], standalone_mode=False)


def test_a_file_without_catalogue_is_searched_for_components(tmp_path: Path) -> None:
    result = check(write(tmp_path, "honest", HONEST), "--seed", "3")
    assert result.return_value == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "attack flat"
    assert "  ok              the_patch_is_well_formed" in lines
    assert "does not apply  progress_is_told: its access is 'none'" in result.output
    assert lines[-1].startswith("1 component, seed 3: 13 ok, 8 does not apply (")


def test_a_broken_component_fails_with_what_to_do(tmp_path: Path) -> None:
    result = check(write(tmp_path, "broken", BROKEN), "--quiet")
    assert result.return_value == 1
    text = " ".join(result.output.split())
    assert "FAILED attack flat: no_global_generator_moves: attack 'flat': expected torch's global generator" in text
    assert "untouched; draw from `task.generator`; found draws from it" in text
    assert "FAILED attack flat: the_seed_decides" in text
    assert " ok " not in text.partition("1 component")[0]
    assert "2 FAILED" in text


def test_one_component_of_a_catalogue(tmp_path: Path) -> None:
    path = write(tmp_path, "catalogue", HONEST + CATALOGUE)
    assert [target.name for target in targets_of(path)] == ["flat_one", "flat_two"]
    (only,) = targets_of(f"{path}:flat_two")
    assert (only.kind, only.name, only.component.__name__) == ("attack", "flat_two", "Flat")
    with pytest.raises(UnknownNameError, match="'flat_tow'. Did you mean: flat_two"):
        targets_of(f"{path}:flat_tow")


def test_built_ins_are_found_by_package_module_and_name() -> None:
    every = targets_of("qpatchbench")
    assert len(every) > 50
    assert {target.kind for target in every} == {registry.kind for registry in REGISTRIES.values()}
    assert not any("<" in target.name for target in every)
    assert [(t.kind, t.name) for t in targets_of("qpatchbench:qat")] == [("defense", "qat"), ("quantizer", "qat")]
    assert [target.name for target in targets_of("qpatchbench.attacks.lavan")] == ["lavan", "lavan_per_image"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("qpatchbnch", "no plugin, module or .py file 'qpatchbnch'. Did you mean: qpatchbench"),
        ("no_such.py", "there is no file no_such.py"),
        ("json", "json: expected components, in CATALOGUES = .*; found none"),
        ("qpatchbench:lavn", "unknown component of qpatchbench 'lavn'. Did you mean: lavan"),
        ("", "no plugin, module or .py file ''"),
    ],
)
def test_a_target_that_cannot_be_found_is_exit_2(target: str, message: str) -> None:
    with pytest.raises(PluginError if "lavn" not in target else UnknownNameError, match=message) as caught:
        targets_of(target)
    assert caught.value.exit_code == 2


def test_a_component_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    text = HONEST.replace(
        '    access = "none"\n', '    access = "none"\n    secret: str = Field(description="only its author knows")\n'
    ).replace("import torch\n", "import torch\nfrom pydantic import Field\n")
    result = check(write(tmp_path, "secret", text))
    assert result.return_value == 1
    assert "found secret: Field required" in result.output
