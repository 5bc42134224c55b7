"""What a plugin can do wrong: each message names the plugin, the file and the line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from qpatchbench.errors import PluginError
from qpatchbench.registry import Entry, Registry, load_plugin
from tests.distributions import as_if_started_now, distribution, write

BASE = "qpatchbench.defenses.base.Defense"
PARTS = """
from qpatchbench.attacks.controls import Random
from qpatchbench.defenses.base import Defense


class Noise(Random):
    "An attack."


class Half(Defense):
    "Lacks its loss."


class Plain:
    "No component at all."


def make():
    return Half
"""
MODULES = {
    "raising.py": "x = 1\n\nraise RuntimeError('no luck')\n",
    "leaving.py": "import sys\nsys.exit(3)\n",
    "silent.py": "assert False\n",
    "malformed.py": "x = 1\n\ny = (\n",
    "lacking.py": "x = 1\nimport not_installed\n",
    "library.py": "import json\n\n\nsettings = json.loads('{')\n",
    "package/__init__.py": "",
    "package/part.py": "from package import inner\n",
    "package/inner.py": "x = 1 / 0\n",
    "parts.py": PARTS,
    "empty.py": "x = 1\n",
}
WRONG = {
    "absent": ("absent:Thing", "cannot be imported from absent:Thing: there is no module 'absent' on the Python path"),
    "raising": ("raising:Thing", "cannot be imported from raising:Thing: {0}/raising.py:3: RuntimeError: no luck"),
    "leaving": ("leaving:Thing", "cannot be imported from leaving:Thing: {0}/leaving.py:2: SystemExit: 3"),
    "silent": ("silent:Thing", "cannot be imported from silent:Thing: {0}/silent.py:1: AssertionError"),
    "malformed": (
        "malformed:Thing",
        "cannot be imported from malformed:Thing: {0}/malformed.py:3: SyntaxError: '(' was never closed",
    ),
    "lacking": (
        "lacking:Thing",
        "cannot be imported from lacking:Thing: {0}/lacking.py:2: ModuleNotFoundError: No module named 'not_installed'",
    ),
    "through a library": (
        "library:Thing",
        "cannot be imported from library:Thing: {0}/library.py:4: JSONDecodeError: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    "inside a package": (
        "package.part:Thing",
        "cannot be imported from package.part:Thing: {0}/package/inner.py:1: ZeroDivisionError: division by zero",
    ),
    "misspelt": ("parts:Hal", "expected a class Hal in {0}/parts.py, found none. Did you mean: Half? Available: "),
    "function": ("parts:make", "expected a class make in {0}/parts.py, found function make. Available: "),
    "classless": ("empty:Thing", "expected a class Thing in {0}/empty.py, found none. The module defines no class."),
    "no class": ("parts", "expected module:Class as its target, found 'parts'"),
    "other kind": (
        "parts:Noise",
        f"expected a class that inherits from {BASE}, found the attack Noise ({{0}}/parts.py:6), which belongs to "
        "qpatchbench.attacks",
    ),
    "no component": (
        "parts:Plain",
        f"expected a class that inherits from {BASE}, found Plain ({{0}}/parts.py:14), which is no component",
    ),
    "abstract": ("parts:Half", "expected the method loss in Half ({0}/parts.py:10), found none"),
}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Defenses, among them every wrong one of an installed distribution."""
    write(tmp_path, MODULES)
    distribution(tmp_path, "wrong-plugin", "0.1", "defenses", {name: target for name, (target, _) in WRONG.items()})
    monkeypatch.syspath_prepend(str(tmp_path))
    with as_if_started_now():
        yield Registry("defense", "qpatchbench.defenses", "qpatchbench.defenses.base:Defense")


@pytest.mark.parametrize("name", WRONG)
def test_an_entry_point_that_cannot_be_used(name: str, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        registry.get(name)
    said, expected = str(caught.value), WRONG[name][1].format(tmp_path)
    separator = " " if expected.startswith("cannot") else ": "
    expected = f"defense {name!r} of wrong-plugin{separator}{expected}"
    assert said == expected or (expected.endswith("Available: ") and said == f"{expected}Half, Noise, Plain.")


def test_the_others_of_a_broken_plugin_are_there(registry: Registry) -> None:
    assert set(WRONG) < set(registry.entries)
    assert registry.get("qat").__module__ == "qpatchbench.defenses.qat"


CATALOGUES = "from qpatchbench.registry import Entry\nCATALOGUES = "
FILES = {
    "no dict": ("x = 1\n", "plugin {0}: expected a dict CATALOGUES of kind -> name -> Entry, found none"),
    "list": (
        "CATALOGUES = {'attacks': ['mine']}\n",
        "plugin {0}: expected a dict of name -> Entry as CATALOGUES['attacks'], found list",
    ),
    "text": (
        "CATALOGUES = {'attacks': {'mine': 'mine:Mine'}}\n",
        "plugin {0}: expected Entry(\"module:Class\", \"what it does\") as CATALOGUES['attacks']['mine'], "
        "found str 'mine:Mine'",
    ),
    "no such kind": (
        "CATALOGUES = {'atacks': {}}\n",
        "plugin {0}: unknown kind 'atacks' in CATALOGUES. Did you mean: attacks? Available: attacks, datasets, "
        "defenses, models, preprocessors, quantizers.",
    ),
    "raises": (
        "x = 1\nraise KeyError('x')\n",
        "plugin {0} cannot be imported: {0}:2: KeyError: 'x'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_plugin(name: str, tmp_path: Path) -> None:
    source, expected = FILES[name]
    path = tmp_path / "not_a_plugin.py"
    path.write_text(source)
    with as_if_started_now(), pytest.raises(PluginError) as caught:
        load_plugin(str(path))
    assert str(caught.value) == expected.format(path)


def test_a_file_that_failed_can_be_mended_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mended_plugin.py"
    path.write_text("x = (\n")
    with as_if_started_now():
        with pytest.raises(PluginError, match="SyntaxError"):
            load_plugin(str(path))
        path.write_text("CATALOGUES = {}\n")
        load_plugin(str(path))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("some/folder", "expected the name of a module, or the path of a file that ends in .py"),
        (".folder", "expected the name of a module, or the path of a file that ends in .py"),
        ("email.nowhere", "there is no module 'email.nowhere' on the Python path"),
    ],
)
def test_a_target_that_leads_nowhere(target: str, expected: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugin(target)
    assert str(caught.value) == f"plugin {target} cannot be imported: {expected}"


def test_a_file_does_not_take_the_name_of_another_module(tmp_path: Path) -> None:
    path = tmp_path / "random.py"
    path.write_text("CATALOGUES = {}\n")
    with pytest.raises(PluginError) as caught:
        load_plugin(str(path))
    assert str(caught.value) == (
        f"plugin {path} cannot be imported: expected a file name that no other module has, found that of "
        f"{random.__file__}; rename it"
    )
    first, second = tmp_path / "a" / "twin_plugin.py", tmp_path / "b" / "twin_plugin.py"
    for file in (first, second):
        file.parent.mkdir()
        file.write_text("CATALOGUES = {}\n")
    with as_if_started_now():
        load_plugin(str(first))
        load_plugin(str(first))
        with pytest.raises(PluginError, match=f"found that of {first}; rename it"):
            load_plugin(str(second))


def test_what_lacks_several_methods_says_which() -> None:
    registry = Registry("dataset", "qpatchbench.data", "qpatchbench.data.base:DatasetSource")
    registry.add("half", Entry("qpatchbench.data.source:CachedSource", "half a dataset", plugin="some-plugin"))
    with pytest.raises(PluginError, match=r"expected the methods locate, num_classes, side in CachedSource \(.*:\d+\)"):
        registry.get("half")
