"""Components from outside at the command line: where they come from, what is kept of them, and how they fail."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import qpatchbench
from qpatchbench.cli import cli
from qpatchbench.errors import PluginError
from tests.cli.running import ended
from tests.distributions import SOFT, as_if_started_now, distribution, write

SUITE = """\
suite: outside
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 200, test_pool: 30, calibration_images: 8,
          craft_images: 16}
models: [resnet20]
training: {epochs: 0}
defenses: [DEFENSE]
quantizers: [{name: ptq, bits: [32]}]
attacks: [{name: ATTACK, size: 2}]
transfer: {sources: [same]}
evaluation: {images: 30}
"""
LOUD = '''
from qpatchbench.attacks.controls import Random
from qpatchbench.registry import Entry

__version__ = "2.5"


class Louder(Random):
    """Uniform noise under another name."""


CATALOGUES = {"attacks": {"louder": Entry("loud:Louder", "noise", "Lee 2024")}}
'''
BROKEN = "from qpatchbench.defenses.base import Defense\n\n\nclass Broken(Defense):\n    'Lacks its loss.'\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions: a good one, one of the same names, and a broken one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "site"
    write(folder, {"soft.py": SOFT, "rival.py": SOFT, "broken.py": BROKEN, "malformed.py": "x = 1\ny = (\n"})
    distribution(folder, "soft-plugin", "1.2", "defenses", dict.fromkeys(("soft", "qat", "own"), "soft:Soft"))
    distribution(folder, "rival-plugin", "0.3", "defenses", {"soft": "rival:Soft"})
    wrong = {"broken": "broken:Broken", "malformed": "malformed:Thing", "absent": "absent:Thing"}
    distribution(folder, "wrong-plugin", "0.1", "defenses", wrong)
    monkeypatch.syspath_prepend(str(folder))
    with as_if_started_now():
        yield folder


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def test_list_says_where_components_come_from(site: Path) -> None:
    rows = {row["name"]: row for row in json.loads(invoke("list", "defenses", "--json").output)}
    assert rows["own"] == {
        "name": "own",
        "summary": "Training on labels that are never sure",
        "reference": "Szegedy et al. 2016, arXiv 1512.00567",
        "plugin": "soft-plugin",
        "version": "1.2",
        "broken": "",
    }
    assert (rows["qat"]["plugin"], rows["qat"]["version"], rows["qat"]["broken"]) == ("built-in", "", "")
    outside = {name for name, row in rows.items() if row["plugin"] != "built-in"}
    names = {"own", "soft-plugin:qat", "soft-plugin:soft", "rival-plugin:soft", "broken", "malformed", "absent"}
    assert outside == names
    text = invoke("list", "defenses").output
    assert f"\n{'own':17}  Training on labels that are never sure  [soft-plugin 1.2]\n" in text
    assert "\nrival-plugin:soft  Training on labels that are never sure  [rival-plugin 0.3]\n" in text
    assert f"\n{'qat':17}  quantization-aware training" in text


def test_list_marks_what_is_broken_and_shows_the_rest(site: Path) -> None:
    lines = invoke("list", "defenses").output.splitlines()
    own = [index for index, line in enumerate(lines) if "[wrong-plugin 0.1]" in line]
    cannot, place = "of wrong-plugin cannot be imported from", f"{site}/broken.py:4"
    assert {lines[index].split()[0]: lines[index + 1].removeprefix("    broken: ") for index in own} == {
        "absent": f"defense 'absent' {cannot} absent:Thing: there is no module 'absent' on the Python path",
        "broken": f"defense 'broken' of wrong-plugin: expected the method loss in Broken ({place}), found none",
        "malformed": f"defense 'malformed' {cannot} malformed:Thing: {site}/malformed.py:2: SyntaxError: '(' was never "
        "closed",
    }


def test_list_plugins_says_what_they_bring_and_whether_it_works(site: Path) -> None:
    write(site, {"loud.py": LOUD})
    rows = json.loads(invoke("--plugin", "loud", "list", "plugins", "--json").output)
    brought = {(row["name"], row["version"]): row["summary"] for row in rows}
    assert brought == {
        ("loud", "2.5"): "attacks/louder",
        ("rival-plugin", "0.3"): "defenses/rival-plugin:soft",
        ("soft-plugin", "1.2"): "defenses/own, defenses/soft-plugin:qat, defenses/soft-plugin:soft",
        ("wrong-plugin", "0.1"): "defenses/absent, defenses/broken, defenses/malformed",
    }
    broken = {row["name"]: row["broken"].splitlines() for row in rows}
    assert broken.pop("wrong-plugin") == [
        "defense 'absent' of wrong-plugin cannot be imported from absent:Thing: there is no module 'absent' on the "
        "Python path",
        f"defense 'broken' of wrong-plugin: expected the method loss in Broken ({site}/broken.py:4), found none",
        f"defense 'malformed' of wrong-plugin cannot be imported from malformed:Thing: {site}/malformed.py:2: "
        "SyntaxError: '(' was never closed",
    ]
    assert set(map(len, broken.values())) == {0}
    text = invoke("--plugin", "loud", "list", "plugins").output
    assert "loud          attacks/louder  [loud 2.5]\n" in text
    assert text.count("\n    broken: defense ") == 3


def test_describe_says_package_version_and_hash(site: Path) -> None:
    text = invoke("describe", "defense", "own").output
    assert text.startswith(
        "own (defense, soft-plugin): Training on labels that are never sure\n"
        "source: Szegedy et al. 2016, arXiv 1512.00567\n"
        "version 1; soft:Soft\n"
        f"package soft-plugin 1.2; source SHA-256 {hashlib.sha256(SOFT.encode()).hexdigest()}\n\n"
        "  smoothing = 0.1   (number; at least 0, below 1)\n"
        "      share of the label that all classes get\n"
    )
    assert "package" not in invoke("describe", "defense", "qat").output
    assert invoke("describe", "defense", "rival-plugin:soft").exit_code == 0
    write(site, {"loud.py": LOUD})
    text = invoke("--plugin", "loud", "describe", "attack", "louder").output
    assert text.startswith("louder (attack, loud): noise\nsource: Lee 2024\nversion 1; loud:Louder\npackage loud 2.5; ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "defense 'broken' of wrong-plugin: expected the method loss in Broken (SITE/broken.py:4)"),
        ("malformed", "SITE/malformed.py:2: SyntaxError: '(' was never closed"),
        ("soft", "is in several plugins: expected one of rival-plugin:soft, soft-plugin:soft"),
    ],
)
def test_what_cannot_be_used_stops_before_any_work(name: str, message: str, site: Path, tmp_path: Path) -> None:
    message = message.replace("SITE", str(site))
    described = invoke("describe", "defense", name)
    assert isinstance(described.exception, PluginError)
    assert message in str(described.exception)
    (tmp_path / "outside.yaml").write_text(SUITE.replace("DEFENSE", name).replace("ATTACK", "grey"))
    validated = CliRunner().invoke(cli, ["validate", "outside.yaml"], standalone_mode=False)
    assert validated.return_value == 2
    assert validated.stderr.startswith(f"outside.yaml:6:12: defenses[0]: defense {name!r} ")
    assert message in validated.stderr
    assert "Traceback" not in validated.stderr
    ran = invoke("run", "outside.yaml")
    assert message in str(ran.exception)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "results").exists()


def test_the_schema_leaves_out_the_fields_of_what_is_broken(site: Path) -> None:
    schema = json.loads(invoke("schema", "suite").output)
    named, *forms = schema["properties"]["defenses"]["items"]["anyOf"]
    assert {"broken", "own", "soft-plugin:soft", "rival-plugin:soft"} <= set(named["enum"])
    titles = [form["$ref"].rpartition("/")[2] for form in forms]
    assert len([title for title in titles if title.endswith("Soft")]) == len({"soft", "rival"})
    assert not [title for title in titles if "Broken" in title]


def python(folder: Path, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with `path` before everything else on its path."""
    root = Path(qpatchbench.__file__).parents[1]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{path}{os.pathsep}{root}",
            "QPATCHBENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_run_keeps_what_identifies_its_plugins_and_redoes_what_an_edit_touches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    write(site, {"soft.py": SOFT, "rival.py": SOFT, "loud.py": LOUD})
    distribution(site, "soft-plugin", "1.2", "defenses", {"soft": "soft:Soft"})
    distribution(site, "rival-plugin", "0.3", "defenses", {"soft": "rival:Soft"})
    text = SUITE.replace("DEFENSE", '"soft-plugin:soft", none').replace("ATTACK", "louder")
    (tmp_path / "outside.yaml").write_text(text)
    result = ended("--plugin", "site/loud.py", "run", "outside.yaml", "--display", "none", folder=tmp_path)
    assert result.returncode == 0, result.stderr

    output = tmp_path / "results" / "outside"
    soft, loud = (hashlib.sha256(text.encode()).hexdigest() for text in (SOFT, LOUD))
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["plugins"] == [
        {"component": "attack louder", "class": "loud:Louder", "package": "loud", "version": "2.5", "sha256": loud},
        {
            "component": "defense soft-plugin:soft",
            "class": "soft:Soft",
            "package": "soft-plugin",
            "version": "1.2",
            "sha256": soft,
        },
    ]
    cells = {
        (cell["defense"], cell["attack"]): cell["plugins"]
        for cell in pq.read_table(output / "cells.parquet").to_pylist()
    }
    of_attack = f"attack louder, loud 2.5, sha256:{loud}"
    of_defense = f"defense soft-plugin:soft, soft-plugin 1.2, sha256:{soft}"
    assert cells["soft-plugin:soft", "louder"] == f"{of_attack}; {of_defense}"
    assert cells["none", "louder"] == of_attack
    assert cells["soft-plugin:soft", "grey"] == of_defense
    assert cells["none", "grey"] == ""
    checkpoints = [json.loads(path.read_text())["facts"]["made"] for path in tmp_path.glob("cache/train/*/*.json")]
    kept = [made.get("plugins", []) for made in checkpoints]
    assert sorted(kept, key=len) == [[], [manifest["plugins"][1]]]
    # The colon of a longer name reaches no file.
    assert (output / "plots" / "pasted_fake_resnet20_soft-plugin-soft_none_louder_2x2.png").is_file()
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]

    write(site, {"soft.py": f"{SOFT}\n# a remark\n"})
    planned = ended("--plugin", "site/loud.py", "plan", "outside.yaml", "--all", folder=tmp_path)
    states = {line[2:] for line in planned.stdout.splitlines() if line.startswith("  ") and "about" not in line}
    assert {state[:5].strip() for state in states} == {"done", "to do"}, planned.stderr
    assert {state for state in states if "soft-plugin:soft" in state} == {s for s in states if s.startswith("to do")}


NEW_ATTACK = '''"""Black squares."""

from __future__ import annotations

import torch

from qpatchbench.attacks.controls import Random


class Black(Random):
    """A black square."""

    def craft(self, task):
        patch = super().craft(task)
        return type(patch)(torch.zeros_like(patch.textures), patch.masks, patch.goals)
'''


def test_adding_a_built_in_component_touches_two_files(tmp_path: Path) -> None:
    """CONTRIBUTING promises it: the new file, and one line of the catalogue; nothing else knows of it."""
    copy = tmp_path / "copy"
    shutil.copytree(
        Path(qpatchbench.__file__).parent, copy / "qpatchbench", ignore=shutil.ignore_patterns("__pycache__")
    )
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (copy / "qpatchbench" / "attacks" / "black.py").write_text(NEW_ATTACK)
    catalogue = copy / "qpatchbench" / "attacks" / "__init__.py"
    line = '    "black": Entry("qpatchbench.attacks.black:Black", "a black square"),\n'
    opening = "CATALOGUE: dict[str, Entry] = {\n"
    catalogue.write_text(catalogue.read_text().replace(opening, opening + line))
    (tmp_path / "outside.yaml").write_text(SUITE.replace("DEFENSE", "none").replace("ATTACK", "black"))
    assert len([path for path in before if path.read_bytes() != before[path]]) == 1

    commands = {
        "list attacks": "\nblack             a black square\n",
        "describe attack black": "\nblack (attack, built-in): a black square\n",
        "validate outside.yaml": "\noutside.yaml: valid\n",
        "run outside.yaml --display none": "\nnone     32    ",
    }
    code = f"""
from qpatchbench.cli import cli
for command in {[*commands]}:
    print(command)
    assert not cli.main(command.split(), standalone_mode=False)
"""
    result = python(tmp_path, "-c", code, path=copy)
    assert result.returncode == 0, result.stderr
    for command, expected in commands.items():
        assert expected in result.stdout.partition(command)[2], command
    output = tmp_path / "results" / "outside"
    cells = [cell for cell in pq.read_table(output / "cells.parquet").to_pylist() if cell["attack"] == "black"]
    assert [(cell["status"], cell["plugins"]) for cell in cells] == [("ok", "")]
    assert json.loads((output / "manifest.json").read_text())["plugins"] == []
