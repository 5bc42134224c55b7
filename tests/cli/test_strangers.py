"""Run folders of strangers: what `verify` may be made to read, decode and write, and what a terminal gets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qpatchbench.errors import ArtifactError, QPatchBenchError
from qpatchbench.runs.run import Run
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.running import ended
from tests.cli.test_verify import CLAIMED, change_row, forge, manifest_of, verified


def forged(folder: Path, **dataset: object) -> Path:
    """A run folder whose manifest asks for other images."""
    manifest = manifest_of(folder)
    manifest["resolved"]["dataset"] = dataset
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def said_of_predictions(text: str) -> str:
    """The line on predictions that were not made again, which are claims then."""
    (told,) = [line for line in text.splitlines() if line.startswith("predictions: ")]
    assert "  - predictions, and the checks of networks and patches\n" in text
    return told


def verified_alone(runs: TinyRuns, folder: Path, *options: str) -> str:
    """What is said of a folder that only its own manifest speaks for, and that is found to contradict itself."""
    code, text = verified(runs, folder, *options, committed=False)
    assert code == 1
    return text


def test_a_manifest_does_not_decide_what_is_decoded(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    before = files_below(tiny_runs.cache)
    folder = forged(copy_of(tiny_runs.first), name="fake", image_size=8, classes=3, train_pool=10**9)
    text = verified_alone(tiny_runs, folder, "--data-dir", str(tmp_path))
    assert said_of_predictions(text) == (
        f"predictions: not made again: the images that the manifest asks for, fake in {tmp_path} split as it says, "
        f"were never read into {tiny_runs.cache}: allow it with --decode"
    )
    assert files_below(tiny_runs.cache) == before


def test_with_leave_the_images_are_decoded_and_are_others(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    folder = forged(copy_of(tiny_runs.first), name="fake", image_size=8, classes=3, content_seed=5)
    text = verified_alone(tiny_runs, folder, "--data-dir", str(tmp_path), "--decode")
    assert (
        f"predictions: not made again: the images found in {tmp_path} are not those of the run"
        in said_of_predictions(text)
    )


@pytest.mark.parametrize("path", ["/etc", "../../secret", "inside/../../secret"])
def test_a_manifest_does_not_leave_the_data_folder(
    path: str, tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    folder = forged(copy_of(tiny_runs.first), name="imagefolder", path=path, classes=3, image_size=8)
    text = verified_alone(tiny_runs, folder, "--data-dir", str(data), "--decode")
    assert said_of_predictions(text) == (
        f"predictions: not made again: the manifest's images lie in {path}, outside of the data folder {data}: say "
        "with --data-dir that they may be read"
    )


def test_a_link_out_of_the_data_folder_is_followed_and_seen(
    tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets").symlink_to("/etc")
    folder = forged(copy_of(tiny_runs.first), name="imagefolder", path="pets", classes=3, image_size=8)
    text = verified_alone(tiny_runs, folder, "--data-dir", str(tmp_path / "data"), "--decode")
    assert "outside of the data folder" in said_of_predictions(text)


def test_a_manifest_downloads_nothing(
    tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    folder = forged(copy_of(tiny_runs.first), name="cifar10", download=True)
    text = verified_alone(tiny_runs, folder, "--data-dir", str(tmp_path), "--decode")
    assert "cifar10: the dataset is not there" in text


@pytest.mark.parametrize("key", ["../../../etc/passwd", "A" * 32, "0" * 31, 7, None])
def test_a_checkpoint_is_named_by_a_key(key: object, tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    manifest["checkpoints"] = [{"key": key}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = verified_alone(tiny_runs, folder)
    assert (
        said_of_predictions(text) == f"predictions: not made again: none of the 1 checkpoints is in {tiny_runs.cache}"
    )


def test_a_patch_of_another_folder_is_not_opened(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    folder = copy_of(tiny_runs.first)
    os.mkfifo(tmp_path / "secret.safetensors")
    manifest = manifest_of(folder)
    manifest["patches"][0]["file"] = "../secret.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "  - manifest.json: expected files of this folder, found ../secret.safetensors\n" in text


@pytest.mark.parametrize("field", ["model", "attack", "dataset", "quantization", "source_defense"])
@pytest.mark.parametrize("name", ["=1+1", "a\x1b[2J", "![x](y)", "a\nb"])
def test_a_record_has_names_that_can_be_shown(field: str, name: str, tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    change_row(folder / "cells.parquet", 1, lambda row: row.update({field: name}))
    with pytest.raises(ArtifactError, match="cells.parquet, row 1: not a cell record") as caught:
        Run(folder)
    assert ascii(name) in str(caught.value)


@pytest.mark.parametrize("goal", ["0x1", "\x1b", "-1", "every"])
def test_a_record_has_goals_that_are_classes(goal: str, tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    def change(row: dict[str, Any]) -> None:
        counts = json.loads(row["counts"])
        counts[0]["goal"] = goal
        row["counts"] = json.dumps(counts)

    folder = copy_of(tiny_runs.first)
    change_row(folder / "cells.parquet", 0, change)
    with pytest.raises(ArtifactError, match="cells.parquet, row 0: not a cell record"):
        Run(folder)


def test_an_image_of_a_run_has_a_name_that_can_be_shown(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    table = pq.read_table(folder / "outcomes.parquet")
    names = [name.replace("test/00000", "\x1b[2J") for name in table["image"].to_pylist()]
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, "image", pa.array(names).dictionary_encode()), folder / "outcomes.parquet")
    forge(folder, "outcomes.parquet")
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "expected printable names of images, found '\\x1b[2J'" in text
    assert "\x1b" not in text


def test_a_text_where_a_number_belongs_is_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    table = pq.read_table(folder / "outcomes.parquet")
    place = table.schema.get_field_index("label")
    texts = pa.array(["x" * 1000] * table.num_rows).dictionary_encode()
    pq.write_table(table.set_column(place, "label", texts), folder / "outcomes.parquet")
    with pytest.raises(ArtifactError, match="outcomes.parquet: expected numbers in the column label, found dictionary"):
        Run(folder)


@pytest.mark.parametrize("name", ["cells.parquet", "outcomes.parquet", "examples.safetensors", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"PAR1\x00PAR1", b"\xff" * 3000, b"{}"])
def test_no_traceback_reaches_a_terminal(name: str, content: bytes, tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    (folder / name).write_bytes(content)
    result = tiny_runs.invoke("verify", str(folder), "--numbers-only")
    assert result.exception is None or isinstance(result.exception, ArtifactError), result.exception


@pytest.mark.parametrize("command", [("verify", "--numbers-only"), ("report", "--format", "csv,md")])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "cells.parquet",
        "outcomes.parquet",
        "examples.safetensors",
        "leaderboard.md",
        ".run.json",
        "a patch",
    ],
)
def test_no_pipe_and_no_folder_is_waited_for(
    name: str, kind: str, command: tuple[str, ...], tiny_runs: TinyRuns, copy_of: CopyOf
) -> None:
    folder = copy_of(tiny_runs.first)
    path = folder / (manifest_of(folder)["patches"][0]["file"] if name == "a patch" else name)
    path.unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    result = tiny_runs.invoke(command[0], str(folder), *command[1:])
    assert result.exception is None or isinstance(result.exception, QPatchBenchError), result.exception


@pytest.mark.parametrize("field", ["files", "jobs", "resolved", "versions", "seeds", "class_names", "suite"])
@pytest.mark.parametrize("value", [7, [[]], {"a": 1}])
def test_fields_of_a_manifest_are_of_their_kind(
    field: str, value: object, tiny_runs: TinyRuns, copy_of: CopyOf
) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = {**manifest_of(folder), field: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = tiny_runs.invoke("verify", str(folder), "--numbers-only")
    if result.exception is None:
        assert result.return_value in (1, 3)
    else:
        assert isinstance(result.exception, ArtifactError), result.exception
        assert f"manifest.json: {field}: expected a " in str(result.exception)


def test_a_table_of_odd_rows_is_told(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    with (folder / "leaderboard.csv").open("a") as file:
        file.write("one,field\n")
    result = tiny_runs.invoke("compare", str(folder), str(tiny_runs.second))
    assert "leaderboard.csv, row 7: expected as many fields as the first line names" in str(result.exception)
    (folder / "leaderboard.csv").write_text("a,b\n" + "x" * 200_000 + ",1\n")
    result = tiny_runs.invoke("compare", str(folder), str(tiny_runs.second))
    assert "leaderboard.csv: expected a table, found something else: field larger than" in str(result.exception)


def test_a_suite_of_more_cells_than_any_is_not_planned(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    manifest["resolved"]["seeds"] = list(range(1_000_000))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only", committed=False)
    assert code == CLAIMED
    assert (
        "labels: not compared: the manifest's suite asks for about 8,000,000 cells, expected at most 1,000,000" in text
    )


def test_errors_are_written_out_for_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text('"a\\x1b]0;b": 1\nsuite: "x\\x1b[2J"\n')
    done = ended("validate", "suite.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr + done.stdout
    assert "a\\x1b]0;b" in done.stderr + done.stdout


PLANNED = """
suite: planned
dataset: {name: imagefolder, path: pets, classes: 12, image_size: 16, calibration_images: 1, craft_images: 1}
models: [resnet20]
defenses: [none]
quantizers: [{name: ptq, bits: [8]}]
attacks: [{name: lavan, size: 4}]
"""


def test_a_plan_shows_the_order_of_classes_and_what_is_not_read(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "pets" / str(number)).mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / "pets" / str(number) / "0.png")
    (tmp_path / "pets" / "3" / "x.heic").write_text("")
    (tmp_path / "planned.yaml").write_text(PLANNED)
    result = tiny_runs.invoke("plan", str(tmp_path / "planned.yaml"), "--data-dir", str(tmp_path))
    lines = result.output.splitlines()
    classes = ", ".join(f"{number} {number}" for number in range(12))
    assert f"classes of imagefolder: {classes}" in lines
    assert (
        f"imagefolder: not read in {tmp_path}/pets, since only images directly in class folders are: 1 .heic" in lines
    )


def test_another_suite_has_labels_of_its_own(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """The same experiment under other names, out of the same cache: nothing is computed, and no name is the old one."""
    text = (tiny_runs.root / "tiny.yaml").read_text()
    for old, new in (
        ("{name: fake,", "{name: fake, label: mine,"),
        ("models: [resnet20]", "models: [{name: resnet20, label: my_net}]"),
        ("defenses: [qat]", "defenses: [{name: qat, label: my_defense}]"),
        ("{name: lavan,", "{name: lavan, label: my_attack,"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "named.yaml").write_text(text)
    output = tmp_path / "out"
    arguments = ("run", str(tmp_path / "named.yaml"), "--output", str(output), "--seeds", "0", "--display", "plain")
    result = tiny_runs.invoke(*arguments)
    assert result.return_value == 0, result.output
    assert result.output.startswith("25 jobs, 25 already done\n"), "a job ran"
    cells = Run(output).cells
    assert {cell.dataset for cell in cells} == {"mine"}
    assert {cell.model for cell in cells} == {"my_net"}
    assert {cell.defense for cell in cells} == {"my_defense"}
    assert "my_attack" in {cell.attack for cell in cells}
