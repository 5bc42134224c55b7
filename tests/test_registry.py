"""Registries: near misses, plugins by entry point and by file, and what goes wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qpatchbench.errors import PluginError, UnknownNameError
from qpatchbench.registry import ATTACKS, BUILT_IN, MODELS, Entry, Registry, load_plugin

PLUGIN = """
from qpatchbench.attacks.controls import Random
from qpatchbench.registry import Entry

class Louder(Random):
    "Uniform noise under another name."

CATALOGUES = {"attacks": {"louder": Entry("loud:Louder", "noise"), "gap": Entry("loud:Louder", "a name in use")}}
"""


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attack 'lavn'. Did you mean: lavan\? Available: autoattack"):
        ATTACKS.get("lavn")


def test_a_family_answers_for_its_members() -> None:
    assert MODELS.entry("timm/resnet18").target == MODELS.entry("timm/<name>").target
    with pytest.raises(UnknownNameError):
        MODELS.entry("torchvision/resnet18")


def test_a_class_that_cannot_be_imported_names_its_origin() -> None:
    registry = Registry("attack", "qpatchbench.attacks")
    registry.add("broken", Entry("qpatchbench.nowhere:Thing", "nothing", plugin="some-plugin"))
    with pytest.raises(PluginError, match="attack 'broken' of some-plugin cannot be imported from qpatchbench.nowhere"):
        registry.get("broken")


def run_python(code: str, folder: Path) -> str:
    """Run in a process of its own: plugins stay registered for the life of one."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_plugin_file_registers_and_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(PLUGIN)
    code = """
from qpatchbench.registry import ATTACKS, load_plugin
load_plugin("loud.py")
print(ATTACKS.get("louder").__name__, ATTACKS.entry("louder").plugin)
print(ATTACKS.get("loud:gap").__name__, ATTACKS.entry("gap").plugin)
"""
    assert run_python(code, tmp_path).splitlines() == ["Louder loud", f"Louder {BUILT_IN}"]


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(PLUGIN)
    info = tmp_path / "loud_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qpatchbench.attacks]\nlouder = loud:Louder\nlavan = loud:Louder\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from qpatchbench.registry import ATTACKS
print(ATTACKS.entry("louder").plugin, ATTACKS.get("louder").__name__)
print(ATTACKS.entry("lavan").plugin, ATTACKS.get("loud-plugin:lavan").__name__)
"""
    assert run_python(code, tmp_path).splitlines() == ["loud-plugin Louder", f"{BUILT_IN} Louder"]


def test_a_plugin_that_fails_is_named_with_file_and_line(tmp_path: Path) -> None:
    raising = tmp_path / "raising.py"
    raising.write_text("x = 1\nraise RuntimeError('no luck')\n")
    with pytest.raises(PluginError, match=r"raising.py cannot be imported: .*raising.py:2: RuntimeError: no luck"):
        load_plugin(str(raising))
    malformed = tmp_path / "malformed.py"
    malformed.write_text("x = 1\n\ny = (\n")
    with pytest.raises(PluginError, match=r"malformed.py:3: SyntaxError"):
        load_plugin(str(malformed))
    with pytest.raises(PluginError, match=r"plugin no_such_module cannot be imported: .*ModuleNotFoundError"):
        load_plugin("no_such_module")


def test_a_plugin_without_a_catalogue_says_what_is_expected(tmp_path: Path) -> None:
    empty = tmp_path / "empty_plugin.py"
    empty.write_text("x = 1\n")
    with pytest.raises(PluginError, match="expected a dict CATALOGUES of kind -> name -> Entry"):
        load_plugin(str(empty))
    wrong = tmp_path / "wrong_plugin.py"
    wrong.write_text("CATALOGUES = {'atacks': {}}\n")
    with pytest.raises(PluginError, match=r"unknown kind 'atacks' in CATALOGUES. Did you mean: attacks\?"):
        load_plugin(str(wrong))
