"""`qpatchbench patches`: files that the attack `file` reads again, pixel for pixel, and passports that say all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpatchbench.runs.foreign.foreign_patch import read_foreign
from qpatchbench.runs.patch_file import read_patch
from tests.cli.conftest import CopyOf, TinyRuns


@pytest.mark.parametrize("kind", ["png", "npy", "safetensors"])
def test_what_is_written_is_read_again(kind: str, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    done = tiny_runs.invoke(
        "patches", str(tiny_runs.first), "--to", kind, "--out", str(tmp_path), "--attack", "lavan", "--licence", "CC0"
    )
    assert done.exit_code == 0, done.exception
    passports = json.loads((tmp_path / "passports.json").read_text())
    assert {tuple(each["bits"]) for each in passports} == {("32",), ("4",)}
    manifest = json.loads((tiny_runs.first / "manifest.json").read_text())
    entries = {entry["key"]: entry for entry in manifest["patches"]}
    for each in passports:
        stored = read_patch(tiny_runs.first / entries[each["key"]]["file"])
        found = [read_foreign(tmp_path / name) for name in each["files"]]
        pixels = np.concatenate([own.textures for own in found])
        np.testing.assert_allclose(pixels, stored.textures.astype(np.float32) / 255, atol=1e-7)
        assert (each["attack"], each["licence"], each["targets"]) == ("lavan", "CC0", [0, 1, 2])
        assert each["images"] == "24 of fake to learn from"
        assert each["target names"] == manifest["class_names"]
        assert each["crafted on"][0].startswith("resnet20 qat ")
    if kind == "safetensors":
        assert found[0].targets == (0, 1, 2)
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.size[0] > 100


def test_nothing_is_overwritten_unasked_and_names_are_known(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    arguments = ("patches", str(tiny_runs.first), "--out", str(tmp_path), "--to", "npy")
    assert tiny_runs.invoke(*arguments).exit_code == 0
    again = tiny_runs.invoke(*arguments)
    assert "already there; choose another --out, or overwrite it with --force" in str(again.exception)
    assert tiny_runs.invoke(*arguments, "--force").exit_code == 0
    wrong = tiny_runs.invoke(*arguments, "--attack", "lavn", "--force")
    assert "no patch of the attack 'lavn'. Did you mean: lavan? Available: lavan, sparse_rs." in str(wrong.exception)
    nowhere = tiny_runs.invoke("patches", str(tmp_path / "nowhere"))
    assert "expected the folder of a finished run, found no " in str(nowhere.exception)


def test_a_strangers_manifest_names_no_place_to_write_to(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    run = copy_of(tiny_runs.first)
    manifest = json.loads((run / "manifest.json").read_text())
    for entry in manifest["patches"]:
        entry["attack"]["name"] = "../../elsewhere"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert tiny_runs.invoke("patches", str(run), "--out", str(tmp_path / "out" / "here")).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {run.name, "out"}
    assert all(
        path.name.startswith(("_elsewhere-", "contact", "passports")) for path in (tmp_path / "out/here").iterdir()
    )
    for broken in ({"patches": [{"sources": ["a"]}]}, {"patches": 3}, {"patches": [{"sources": ["a"], "attack": 1}]}):
        (run / "manifest.json").write_text(json.dumps({**manifest, **broken}))
        told = tiny_runs.invoke("patches", str(run), "--out", str(tmp_path / "other"))
        wanted = ("patches: expected a list, found int", "expected the patches of a run, found others: ")
        assert any(text in str(told.exception) for text in wanted)
