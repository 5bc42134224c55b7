"""What is broken on purpose must be caught, by the conformance kit and by the checks of a run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

from qpatchbench.evaluation.checks.artifacts import storage_is_faithful
from qpatchbench.ops.patches.pasting import to_uint8
from qpatchbench.registry import Entry
from qpatchbench.testing import checks_for, trial
from qpatchbench.testing.decoys import CATALOGUES, DECOYS, Decoy
from qpatchbench.testing.kit import ComponentCheck
from tests.cli.running import ended


def component_of(decoy: Decoy) -> object:
    entry: Entry = CATALOGUES[decoy.kind][decoy.name]
    module, _, name = entry.target.partition(":")
    return trial(getattr(sys.modules[module], name), decoy.name)


def failure_of(check: ComponentCheck, component: object) -> str:
    with pytest.raises(Exception, match=".") as caught:
        check(component)  # type: ignore[arg-type]  # a component of some kind
    return f"raised {type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("decoy", DECOYS, ids=[decoy.name for decoy in DECOYS])
def test_the_kit_catches_every_decoy(decoy: Decoy) -> None:
    component = component_of(decoy)
    (check,) = [check for check in checks_for(component) if check.name == decoy.check]  # type: ignore[arg-type]
    assert decoy.says in failure_of(check, component)


IMAGES = "image_size: 12, classes: 3, train_pool: 200, test_pool: 120, calibration_images: 8, craft_images: 32"
ATTACKS = "[{name: lavan, size: 4, targets: untargeted, steps: 60, batch_size: 16}]"
BROKEN_ATTACKS = [decoy for decoy in DECOYS if decoy.kind == "attacks" and decoy.validity]
BROKEN_QUANTIZERS = [decoy for decoy in DECOYS if decoy.kind == "quantizers"]


def suite(
    dataset: str = "fake", model: str = "resnet20", quantizers: str = "[{name: ptq, bits: [32, 8]}]", attacks: str = ""
) -> str:
    return f"""\
suite: decoys
dataset: {{name: {dataset}, {IMAGES}}}
models: [{model}]
training: {{epochs: 2, batch_size: 16, learning_rate: 0.05}}
defenses: [none]
quantizers: {quantizers}
attacks: {attacks or ATTACKS}
transfer: {{sources: [same]}}
evaluation: {{images: 120}}
"""


def test_a_run_marks_broken_preprocessors_and_no_honest_one(tmp_path: Path, cache: Path) -> None:
    broken = [decoy for decoy in DECOYS if decoy.kind == "preprocessors"]
    honest = "{name: patchcleanser, size: 4, masks: 2}"
    listed = f"preprocessors: [{honest}, obfuscated, {{name: lying_certificate, size: 4}}]\n"
    _, rows = rows_of(tmp_path, suite(quantizers="[{name: fp}]") + listed, cache)
    (row,) = [row for row in rows if row["preprocessor"] == "patchcleanser"]
    assert not {"V3", "V17"} & set(failed(row))
    assert float(row["certified_accuracy"]) <= float(row["robust_accuracy"])
    for decoy in broken:
        (row,) = [row for row in rows if row["preprocessor"] == decoy.name]
        assert decoy.validity in failed(row), decoy.name


def rows_of(folder: Path, text: str, cache: Path) -> tuple[int, list[dict[str, str]]]:
    (folder / "decoys.yaml").write_text(text)
    arguments = ("--plugin", "qpatchbench.testing.decoys", "run", "decoys.yaml", "--display", "none")
    done = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(cache))
    assert done.returncode in (0, 1), done.stderr
    with (folder / "results/decoys/leaderboard.csv").open(newline="") as file:
        return done.returncode, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def failed(row: dict[str, str]) -> list[str]:
    return [check for part in row["checks"].split("; ") if part.startswith("fail ") for check in part.split()[1:]]


def test_a_run_marks_broken_attacks_and_no_honest_one(tmp_path: Path, cache: Path) -> None:
    listed = "".join(
        f"  - {{name: {decoy.name}, size: 4, targets: untargeted, steps: 60, batch_size: 16}}\n"
        for decoy in BROKEN_ATTACKS
    )
    attacks = f"\n  - {ATTACKS[1:-1]}\n{listed.rstrip()}"
    code, rows = rows_of(tmp_path, suite(attacks=attacks), cache)
    assert code == 1, "one attack raised"
    honest = [row for row in rows if row["attack"] == "lavan"]
    assert len(honest) == 2
    assert all(failed(row) == [] for row in honest), "no false alarm at 32 and 8 bits"
    for decoy in BROKEN_ATTACKS:
        own = [row for row in rows if row["attack"] == decoy.name]
        assert len(own) == 2, decoy.name
        for row in own:
            if decoy.validity == "V10":
                assert row["status"].startswith("error"), "an error is no robust network"
                assert row["asr"] == ""
            else:
                assert decoy.validity in failed(row), decoy.name


def test_a_run_marks_broken_quantizers(tmp_path: Path, cache: Path) -> None:
    listed = ", ".join(f"{{name: {decoy.name}, label: {decoy.name}, bits: [4]}}" for decoy in BROKEN_QUANTIZERS)
    _, rows = rows_of(tmp_path, suite(quantizers=f"[{listed}]"), cache)
    for decoy in BROKEN_QUANTIZERS:
        (row,) = [row for row in rows if row["quantization"] == decoy.name]
        assert decoy.validity in [*failed(row), row["status"]], decoy.name


def test_a_writer_that_cuts_off_is_caught() -> None:
    textures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    honest, cut = to_uint8(textures), (textures * 255).to(torch.uint8)
    assert storage_is_faithful(textures, honest).verdict == "pass"
    check = storage_is_faithful(textures, cut)
    assert (check.id, check.verdict) == ("V1", "fail")
    assert "expected at most 0.5/255" in check.message


@pytest.mark.parametrize("decoy", [decoy for decoy in DECOYS if decoy.kind == "models"], ids=lambda decoy: decoy.name)
def test_a_run_marks_a_broken_model(decoy: Decoy, tmp_path: Path, cache: Path) -> None:
    _, rows = rows_of(tmp_path, suite(model=decoy.name), cache)
    assert len(rows) == 2
    assert all(decoy.validity in failed(row) for row in rows)


def test_a_run_marks_an_overlap(tmp_path: Path) -> None:
    # With a cache of its own: its fingerprint is that of the images it should have.
    _, rows = rows_of(tmp_path, suite(dataset="overlapping"), tmp_path / "cache")
    assert len(rows) == 2
    assert all("V9" in failed(row) for row in rows)
