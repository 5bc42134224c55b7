"""`qpatchbench figure` and `qpatchbench list figures`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import click
import pytest
from PIL import Image

from qpatchbench.errors import ArtifactError
from qpatchbench.report.figures import CATALOGUE
from qpatchbench.report.leaderboard.published import read_folder
from tests.cli.running import ended
from tests.cli.test_commands import ROOT, invoke, started
from tests.report.figures.test_figures import drawn, lines, panels
from tests.report.made_up_runs import cost, pixel_attack, pixel_row, row, similarities, write_run

SUITE = """
suite: drawn
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 64, test_pool: 20, calibration_images: 16,
          craft_images: 16}
models: [resnet20]
training: {epochs: 1, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 4]}]
attacks:
  - {name: fgsm, label: fgsm_4, epsilon: 0.0157}
  - {name: fgsm, label: fgsm_16, epsilon: 0.0628}
  - {name: gap, size: 4, targets: untargeted, steps: 2, batch_size: 8}
transfer: {sources: [same]}
sweep: {rotations: [30]}
analysis: {similarity: true, images: 4}
evaluation: {images: 20}
"""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data for four figures."""
    rows = [row(target_bits=bits, patch_height=side, patch_width=side) for bits in ("32", "4") for side in (4, 6)]
    rows += [pixel_row("pgd", bits, 40) for bits in ("32", "4")]
    return write_run(
        tmp_path_factory.mktemp("figures") / "run",
        rows,
        attacks=[pixel_attack("pgd", 0.03)],
        costs=[cost("qat", "32 4", 1, 1), cost("pbat", "32", 0.5, 0.25)],
        similarity=similarities(["conv1"]),
    )


def test_all_writes_what_the_run_has_data_for(made_up: Path, tmp_path: Path) -> None:
    done = invoke("figure", "all", "--run", str(made_up), "--output", str(tmp_path))
    assert done.exception is None
    names = {
        "costs_cifar10-jpeg_resnet20_qat",
        "pixel-attacks_cifar10-jpeg_resnet20_qat_qat",
        "similarity_cifar10-jpeg_resnet20_qat_qat",
        "sweep_size_bits_cifar10-jpeg_resnet20_qat_qat_gap_white-box",
    }
    expected = {str(tmp_path / f"{name}.{ending}") for name in names for ending in ("pdf", "png")}
    assert set(done.stdout.splitlines()) == expected == {str(path) for path in tmp_path.iterdir()}
    of_papers = {name for name, entry in CATALOGUE.items() if entry.of_a_paper}
    lacking = of_papers - {"costs", "pixel_attacks", "similarity", "sweep"}
    told = {re.match(r"no data for (\w+): a suite that makes it states ", line) for line in done.stderr.splitlines()}
    assert {match[1] for match in told if match} == lacking
    assert len(told) == len(lacking)


def test_files_are_fit_for_print_and_always_the_same(made_up: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(made_up, run)
    invoke("figure", "pixel_attacks", "--run", str(made_up), "--output", str(tmp_path / "other"))
    invoke("figure", "pixel_attacks", "--run", str(run), "--run", str(run))
    [pdf], [png] = sorted((run / "figures").glob("*.pdf")), sorted((run / "figures").glob("*.png"))
    for path in (pdf, png):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    whole = data + b"".join(_streams(data))
    assert b"/Type3" not in whole
    assert b"/FontFile2" in whole
    assert not re.search(rb"/(CreationDate|ModDate|Producer|Creator)\b", whole)
    assert not re.search(rb"/Subtype\s*/Image", whole)  # vectors alone
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert 3.3 <= image.width / 300 <= 7.01
        assert image.convert("L").getextrema() == (0, 255)


def _streams(data: bytes) -> list[bytes]:
    """Whatever of a PDF can be inflated."""
    found = []
    for part in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
        try:
            found.append(zlib.decompressobj().decompress(part))
        except zlib.error:
            continue
    return found


def test_a_misspelt_name_ends_with_2_and_one_message(tmp_path: Path) -> None:
    done = started("figure", "similarty", "--run", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown figure 'similarty'. Did you mean: similarity? Available: all, ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["costs", "--run", "nowhere"], "nowhere: expected a run folder with manifest.json and"),
        (["costs"], "Missing parameter: runs"),
        (["similarity", "--run", "{run}"], "{run}: no data for similarity: {states} analysis: {{similarity: true}}"),
        (["costs", "--run", "{run}"], "{run}: no data for costs: {states} analysis: {{costs: qat, fewer_bits: true}}"),
        (["sweep", "--run", "{run}"], "{run}: no data for sweep: {states} sweep: {{sizes: "),
        (["pixel_attacks", "--run", "{run}"], "{run}: no data for pixel_attacks: {states} attacks: "),
        (["all", "--run", "{run}"], "; no data for similarity: {states} analysis: {{similarity: true}}; no data for "),
    ],
)
def test_missing_data_is_an_error_that_says_how_to_make_it(tmp_path: Path, arguments: list[str], message: str) -> None:
    run = write_run(tmp_path / "published", [row(target_bits="4")])
    result = invoke("figure", *(each.format(run=run) for each in arguments))
    assert isinstance(result.exception, ArtifactError | click.UsageError)
    assert result.exception.exit_code == 2
    assert message.format(run=run, states="a suite that makes it states") in str(result.exception)
    assert result.output == ""
    assert not (run / "figures").exists()


def test_figures_are_listed_with_their_papers() -> None:
    rows = json.loads(invoke("list", "figures", "--json").output)
    assert {"pixel_attacks", "similarity", "sweep", "costs"} <= {each["name"] for each in rows}
    assert [each["name"] for each in rows] == list(CATALOGUE)
    for each in rows:
        source = r"(figure|table)s? \d+" if CATALOGUE[each["name"]].of_a_paper else "^the report of a run$"
        assert re.search(source, each["reference"]), each
        assert not each["summary"].endswith(".")


def test_listing_and_help_load_neither_matplotlib_nor_torch() -> None:
    code = """
import sys
from click.testing import CliRunner
from qpatchbench.cli.lazy_torch import defer
defer("torch")
from qpatchbench.cli import cli
for arguments in (["list", "figures"], ["figure", "--help"]):
    assert CliRunner().invoke(cli, arguments).exit_code == 0
assert not {"matplotlib", "torch._C", "pandas"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_every_catalogue_line_leads_to_a_function() -> None:
    for name, entry in CATALOGUE.items():
        assert callable(entry.load()), name


def test_a_whole_run_becomes_figures(tmp_path: Path) -> None:
    (tmp_path / "drawn.yaml").write_text(SUITE)
    environment = {"QPATCHBENCH_CACHE": str(tmp_path / "cache")}
    done = ended("run", "drawn.yaml", "--output", "out", "--display", "none", folder=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    done = ended("figure", "all", "--run", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run_pictures = ended("figure", "pasted", "--run", "out", folder=tmp_path)
    assert run_pictures.returncode == 0, run_pictures.stderr
    assert "/figures/pasted_fake_resnet20_none_" in run_pictures.stdout
    kinds = {line.partition("/figures/")[2].partition("_")[0] for line in done.stdout.splitlines()}
    assert {"pixel-attacks", "sweep", "similarity"} <= kinds
    rows = {(each.attack, each.target_bits): each for each in read_folder(tmp_path / "out").rows}
    [drawing] = drawn("pixel_attacks", tmp_path / "out")
    [axes] = panels(drawing.figure)
    for bits, label in (("32", "32-bit"), ("4", "4-bit")):
        weak, strong = rows["fgsm_4", bits], rows["fgsm_16", bits]
        pairs = [(weak, "clean_accuracy"), (weak, "robust_accuracy"), (strong, "robust_accuracy")]
        assert lines(axes)[label].y == [row.number(rate) for row, rate in pairs]
    [similarity] = drawn("similarity", tmp_path / "out")
    values = [each["value"] for each in read_folder(tmp_path / "out").similarity
              if (each["metric"], each["images"]) == ("edge_iou", "clean")]  # fmt: skip
    assert [lines(axes)["clean"].y[0] for axes in panels(similarity.figure)][: len(values)] == values
