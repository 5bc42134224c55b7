"""`qpatchbench plugin new`: what it writes, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qpatchbench.cli import cli
from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.registry import REGISTRIES, Entry
from qpatchbench.scaffold import KINDS, scaffold


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plugin", "new", *arguments], standalone_mode=False)


def refusal(*arguments: str) -> str:
    error = new(*arguments).exception
    assert isinstance(error, QPatchBenchError), error
    return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_the_templates_say_and_what_to_type_next(kind: str, tmp_path: Path) -> None:
    result = new(kind, "my_thing")
    assert result.exception is None
    folder = tmp_path / "qpatchbench-my-thing"
    files = scaffold(kind, "my_thing")
    assert {path: (folder / path).read_text() for path in files} == files
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(folder / path for path in files)
    assert list(tmp_path.iterdir()) == [folder]
    lines = result.output.splitlines()
    assert lines[: len(files)] == [f"wrote {Path('qpatchbench-my-thing') / path}" for path in files]
    assert [line.strip() for line in lines[-5:]] == [
        "cd qpatchbench-my-thing",
        "pip install --editable .",
        "qpatchbench plugin check qpatchbench_my_thing",
        "pytest",
        "qpatchbench run suite.yaml",
    ]


def test_plural_kinds_and_other_folders_will_do(tmp_path: Path) -> None:
    assert new("defenses", "my_thing", "--dir", "deep/down").exception is None
    assert (tmp_path / "deep" / "down" / "qpatchbench-my-thing" / "suite.yaml").is_file()


def test_a_misspelt_kind_gets_the_nearest() -> None:
    message = str(new("defence", "my_thing").exception)
    assert message == (
        "no kind 'defence'. Did you mean: defense? Available: attack, dataset, defense, model, preprocessor, quantizer."
    )


@pytest.mark.parametrize(("kind", "name"), [("defense", "qat"), ("attack", "lavan"), ("dataset", "digits")])
def test_a_name_in_the_registry_is_taken(kind: str, name: str, tmp_path: Path) -> None:
    expected = f"expected a name that no {kind} has, found {name!r}, which is built-in. Nearest: my_{name}"
    assert refusal(kind, name) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_plugin_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = REGISTRIES["defenses"]
    theirs = {**registry.entries, "shield": Entry("theirs:Shield", "theirs", plugin="theirs")}
    monkeypatch.setitem(registry.__dict__, "entries", theirs)
    assert refusal("defense", "shield") == (
        "expected a name that no defense has, found 'shield', which is theirs. Nearest: my_shield"
    )


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "qpatchbench-my-thing"
    folder.mkdir()
    (folder / "suite.yaml").write_text("mine")
    assert refusal("defense", "my_thing") == (
        "expected a folder that is not there yet, found qpatchbench-my-thing; choose another --dir or name"
    )
    assert [path.name for path in folder.iterdir()] == ["suite.yaml"]
    assert (folder / "suite.yaml").read_text() == "mine"


def test_a_module_that_is_installed_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qpatchbench_my_thing.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refusal("attack", "my_thing") == (
        "expected a module that is not installed yet, found qpatchbench_my_thing. Nearest name: my_thing_attack"
    )


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = new("defense", "my_thing", "--dir", "file/below")
    assert isinstance(result.exception, StorageError)
    assert str(result.exception) == "cannot write file/below/qpatchbench-my-thing: Not a directory"
    assert result.exception.exit_code == 1


def test_a_name_out_of_shape_writes_nothing(tmp_path: Path) -> None:
    assert refusal("defense", "My-Thing").endswith("found 'My-Thing'. Nearest: my_thing")
    assert list(tmp_path.iterdir()) == []


def test_it_loads_no_torch() -> None:
    code = """
import sys
sys.argv = ["qpatchbench", "plugin", "new", "defense", "my_thing"]
from qpatchbench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch._C" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
