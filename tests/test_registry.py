"""Registries: near misses, plugins by entry point and by file, and what goes wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.errors import PluginError, UnknownNameError
from qpatchbench.registry import ATTACKS, BUILT_IN, MODELS, Entry, Registry, load_plugin
from tests.distributions import SOFT, as_if_started_now, distribution, write

PLUGIN = """
from qpatchbench.attacks.controls import Random
from qpatchbench.registry import Entry
__version__ = "2.5"


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


def defenses() -> Registry:
    """A registry of its own, which looks for plugins anew."""
    return Registry("defense", "qpatchbench.defenses", "qpatchbench.defenses.base:Defense")


def test_a_plugin_file_registers_and_never_replaces(tmp_path: Path) -> None:
    write(tmp_path, {"loud.py": PLUGIN})
    with as_if_started_now():
        load_plugin(str(tmp_path / "loud.py"))
        load_plugin(str(tmp_path / "loud.py"))
        assert (ATTACKS.get("louder").__name__, ATTACKS.entry("louder").plugin) == ("Louder", "loud")
        assert ATTACKS.entry("louder").version == "2.5"
        assert (ATTACKS.get("loud:gap").__name__, ATTACKS.entry("gap").plugin) == ("Louder", BUILT_IN)
        assert [name for name, entry in ATTACKS.entries.items() if entry.plugin == "loud"] == ["loud:gap", "louder"]


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"soft.py": SOFT})
    distribution(tmp_path, "soft-plugin", "1.2", "defenses", {"soft": "soft:Soft [extra]", "qat": "soft:Soft"})
    monkeypatch.syspath_prepend(str(tmp_path))
    with as_if_started_now():
        registry = defenses()
        assert registry.entry("soft") == Entry("soft:Soft", "", plugin="soft-plugin", version="1.2")
        assert registry.entry("qat").plugin == BUILT_IN
        assert registry.get("soft") is registry.get("soft-plugin:qat")
        assert [name for name in registry.entries if "soft" in name] == ["soft", "soft-plugin:qat"]
        # The longer name is always right, so that a suite can be written to mean one plugin whatever else is there.
        assert registry.entry("soft-plugin:soft") is registry.entry("soft")


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_plugins_that_collide_are_both_listed_whichever_is_found_first(
    order: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in order:
        distribution(tmp_path / name, name, "1.0", "defenses", {"soft": f"{name}_module:Soft"})
        monkeypatch.syspath_prepend(str(tmp_path / name))
    registry = defenses()
    assert {name: entry.target for name, entry in registry.entries.items() if entry.plugin != BUILT_IN} == {
        "first:soft": "first_module:Soft",
        "second:soft": "second_module:Soft",
    }
    with pytest.raises(PluginError) as caught:
        registry.entry("soft")
    assert str(caught.value) == "defense 'soft' is in several plugins: expected one of first:soft, second:soft"


def test_a_file_that_collides_with_an_installed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "soft-plugin", "1.0", "defenses", {"soft": "soft:Soft", "other": "soft:Other"})
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = defenses()
    assert "soft" in registry.entries
    registry.add("soft", Entry("mine:Soft", "mine", plugin="mine"))
    registry.add("other", Entry("soft:Other", "the installed one, given by --plugin too", plugin="soft"))
    outside = {name for name, entry in registry.entries.items() if entry.plugin != BUILT_IN}
    assert outside == {"mine:soft", "soft-plugin:soft", "other"}


def test_a_family_of_a_plugin_answers_under_its_longer_name_too() -> None:
    registry = Registry("model", "qpatchbench.models")
    registry.add("timm/<name>", Entry("mine:Timm", "mine", plugin="mine"))
    assert registry.entry("mine:timm/resnet18").target == "mine:Timm"
    assert registry.entry("timm/resnet18").plugin == BUILT_IN


def test_a_plugin_that_fails_is_named_with_file_and_line(tmp_path: Path) -> None:
    raising = tmp_path / "raising.py"
    raising.write_text("x = 1\nraise RuntimeError('no luck')\n")
    with pytest.raises(PluginError, match=r"raising.py cannot be imported: .*raising.py:2: RuntimeError: no luck"):
        load_plugin(str(raising))
    malformed = tmp_path / "malformed.py"
    malformed.write_text("x = 1\n\ny = (\n")
    with pytest.raises(PluginError, match=r"malformed.py:3: SyntaxError"):
        load_plugin(str(malformed))
    with pytest.raises(PluginError) as caught:
        load_plugin("no_such_module")
    assert str(caught.value) == (
        "plugin no_such_module cannot be imported: there is no module 'no_such_module' on the Python path"
    )


def test_a_plugin_without_a_catalogue_says_what_is_expected(tmp_path: Path) -> None:
    empty = tmp_path / "empty_plugin.py"
    empty.write_text("x = 1\n")
    with pytest.raises(PluginError, match="expected a dict CATALOGUES of kind -> name -> Entry"):
        load_plugin(str(empty))
    wrong = tmp_path / "wrong_plugin.py"
    wrong.write_text("CATALOGUES = {'atacks': {}}\n")
    with pytest.raises(PluginError, match=r"unknown kind 'atacks' in CATALOGUES. Did you mean: attacks\?"):
        load_plugin(str(wrong))


@pytest.mark.parametrize("name", ["=1+1", "a\x1b[2J", "![x](y)", " a", "a\nb", "x" * 101])
@pytest.mark.parametrize("place", ["name", "version", "summary"])
def test_what_a_plugin_is_called_can_be_shown(name: str, place: str, tmp_path: Path) -> None:
    if place == "summary" and name.isprintable():
        name = "a\x07"
    entry = {"name": "louder", "version": "2.5", "summary": "noise", place: name}
    source = PLUGIN.partition("CATALOGUES")[0].replace('"2.5"', repr(entry["version"]))
    catalogue = f'{{{entry["name"]!r}: Entry("odd:Louder", {entry["summary"]!r})}}'
    write(tmp_path, {"odd.py": f"{source}\nCATALOGUES = {{'attacks': {catalogue}}}\n"})
    with as_if_started_now(), pytest.raises(PluginError) as caught:
        load_plugin(str(tmp_path / "odd.py"))
    what = {"name": "name of a component ", "version": "version "}.get(place, "")
    assert str(caught.value).startswith(f"plugin {tmp_path}/odd.py: ")
    assert f"expected as {what}" in str(caught.value) or "expected a printable line about it" in str(caught.value)
    assert str(caught.value).endswith(f"found {ascii(name)}")


def test_a_family_of_a_plugin_has_a_name_that_can_be_shown(tmp_path: Path) -> None:
    catalogue = "{'family/<name>': Entry('odd:Louder', 'noise')}"
    write(tmp_path, {"odd.py": f"{PLUGIN.partition('CATALOGUES')[0]}\nCATALOGUES = {{'attacks': {catalogue}}}\n"})
    with as_if_started_now():
        load_plugin(str(tmp_path / "odd.py"))
        assert ATTACKS.entry("family/member").plugin == "odd"


def test_an_installed_plugin_has_names_that_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"soft.py": SOFT})
    distribution(tmp_path, "soft-plugin", "1.2", "defenses", {"<b>soft": "soft:Soft"})
    monkeypatch.syspath_prepend(str(tmp_path))
    with as_if_started_now(), pytest.raises(PluginError, match="plugin 'soft-plugin': expected as name of a component"):
        defenses().entries  # noqa: B018 (the property does the work)
