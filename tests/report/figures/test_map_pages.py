"""What the figures of maps say: titles, boxes, notes, pages; from a made-up run whose numbers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from safetensors.numpy import save_file

from qpatchbench.errors import ArtifactError
from qpatchbench.report.figures import CATALOGUE, Drawing, drawings
from qpatchbench.report.figures.drawing.map_pages import mapped_backbones
from qpatchbench.report.figures.drawing.picture_grid import PlacedPicture, difference_box, scientific, short
from qpatchbench.report.figures.features import correlation
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.statistics.intervals import Array

BITS, COUNT, SIDE = ("32", "4"), 5, 8
OWNER = {"model": "resnet20", "defense": "qat", "quantization": "qat", "seed": 0}
NAMES = ("cat", "a dog with a very long name", "ship")


def write_maps(folder: Path, *, patch: bool = True) -> RunFolder:
    """Five images of three classes; the patch lies at row 2, column 5, and is 3 pixels high and 2 wide."""
    generator = np.random.default_rng(0)
    contents = ("clean", "patched", "perturbed") if patch else ("clean", "perturbed")
    clean = generator.integers(0, 200, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)
    patched = clean.copy()
    patched[:, :, 2:5, 5:7] = 255
    pixels = {"clean": clean, "patched": patched, "perturbed": clean + 8}
    arrays: dict[str, Array] = {"0/labels": np.arange(COUNT) % 3}
    arrays |= {f"0/pixels/{name}": pixels[name] for name in contents}
    rows = []
    for content in contents:
        for bits in BITS:
            arrays[f"0/predictions/{content}/{bits}"] = np.full(COUNT, 2)
            arrays[f"0/features/{content}/{bits}/conv1"] = generator.random((COUNT, 4, 4)).astype(np.float16)
            arrays[f"0/gradients/{content}/{bits}"] = generator.random((COUNT, 3, SIDE, SIDE)).astype(np.float16)
            arrays[f"0/cams/{content}/{bits}"] = generator.random((COUNT, 4, 4)).astype(np.float32)
            same = bits == BITS[0]
            for kind, metric in (("gradients", "cosine"), ("gradients", "mse"), ("cams", "cosine"), ("cams", "iou")):
                value = (0.0 if metric == "mse" else 1.0) if same else 0.25
                arrays[f"0/{kind}/{metric}/{content}/{bits}"] = np.full(COUNT, value, np.float32)
        for metric in ("cosine", "mse", "iou"):
            about = {"images": content, "bits": "4", "metric": metric, "value": 0.125, "chance": 0.0625}
            rows.append({**OWNER, **about, "n_images": 77})
    found = {"attack": "lavan", "side": 3, "goal": "2", "source_defense": "none", "source_bits": "32"}
    facts = {
        **OWNER,
        **{"bits": BITS, "contents": contents, "layers": ["conv1"], "cam_layer": "backbone.layer3"},
        **{"images": [f"image {number}" for number in range(COUNT)], "patch": found if patch else None},
    }
    save_file(arrays, folder / "maps.safetensors", metadata={"backbones": json.dumps([facts])})
    for name in ("gradients", "gradcam"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return RunFolder(str(folder), {"dataset_note": "cifar10 (jpeg)", "class_names": NAMES}, ())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_maps(tmp_path)


def drawn(name: str, *folders: RunFolder) -> list[Drawing]:
    return drawings(CATALOGUE[name], folders)


def told(figure: Figure) -> str:
    """The title, which may be broken into lines."""
    found = figure.get_suptitle()
    return " ".join(found.split())


def titles(figure: Figure) -> Iterator[str]:
    for axes in figure.axes:
        for where in ("left", "center"):
            if axes.get_title(where):
                yield axes.get_title(where)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_features_are_a_page_per_image(run: RunFolder) -> None:
    pages = drawn("features", run)
    assert [page.name for page in pages][:2] == [
        "features_cifar10-jpeg_resnet20_qat_none_qat_seed0_image1",
        "features_cifar10-jpeg_resnet20_qat_none_qat_seed0_image2",
    ]
    assert len(pages) == COUNT
    title = told(pages[1].figure)
    for part in ("resnet20", "qat", "cifar10 (jpeg)", "lavan 3x3 towards ship", "defense none, 32 bits", "a dog"):
        assert part in title, part
    assert [*titles(pages[1].figure)].count("r 1.0") == 2, "the widest network's map, clean and patched, is its own"


def test_the_panels_of_a_layer_share_their_colours(run: RunFolder) -> None:
    figure = drawn("features", run)[0].figure
    shown = [(picture, np.asarray(picture.get_array())) for axes in figure.axes for picture in axes.images]
    maps = [(picture.get_clim(), values) for picture, values in shown if values.ndim == 2]
    assert len(maps) == 2 * 2
    lowest, highest = (float(extreme([extreme(values) for _, values in maps])) for extreme in (np.min, np.max))
    assert {limits for limits, _ in maps} == {(lowest, highest)}


@pytest.mark.parametrize("name", ["gradients", "gradcam"])
def test_four_images_on_a_page(run: RunFolder, name: str) -> None:
    pages = drawn(name, run)
    assert [page.name.rpartition("_")[2] for page in pages] == ["page1", "page2"]
    pictures = [[axes for axes in page.figure.axes if axes.images] for page in pages]
    assert [len(each) for each in pictures] == [2 * 4 * 3, 2 * 1 * 3], "two contents, images, an input and two widths"


def test_gradients_show_both_figures_and_their_means(run: RunFolder) -> None:
    figure = drawn("gradients", run)[0].figure
    assert [*titles(figure)].count("1.0   0") == 8
    assert [*titles(figure)].count(".25   0.25") == 8
    assert texts(figure).count("mean of 77\ncos .12\nMSE 0.12") == 2
    assert any(title.startswith("under PGD (8/255, 20 steps), made at 32 bits\n") for title in titles(figure))


def test_gradcam_shows_answers_agreement_and_chance(run: RunFolder) -> None:
    figure = drawn("gradcam", run)[0].figure
    assert [*titles(figure)].count("ship\n.25   .25") == 8
    assert texts(figure).count("mean of 77\ncos .12\nIoU .12\nchance\n.06 .06") == 2
    assert "Grad-CAM of layer3" in told(figure)


def test_the_patch_is_outlined_in_every_picture_it_is_in(run: RunFolder) -> None:
    figure = drawn("gradcam", run)[1].figure
    boxes = [patch.get_bbox().bounds for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 3 * 2, "the input and two maps, white on black; none on the clean ones"
    assert set(boxes) == {(5 / 8, 2 / 8, 2 / 8, 3 / 8)}


def test_a_run_without_a_patch_is_drawn_clean(tmp_path: Path) -> None:
    run = write_maps(tmp_path, patch=False)
    for name in ("features", "gradients", "gradcam"):
        figure = drawn(name, run)[0].figure
        assert "lavan" not in told(figure)
        assert all("patch" not in title for title in titles(figure))


def test_the_first_folder_wins(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    found = [*mapped_backbones([write_maps(other), run])]
    assert [backbone.directory for backbone in found] == [other]


def test_an_array_that_is_not_there_is_named(run: RunFolder) -> None:
    (backbone,) = mapped_backbones([run])
    with pytest.raises(ArtifactError, match="expected an array 0/cams/clean/16"):
        backbone.array("cams", "clean", "16")


def test_a_class_without_a_name_is_its_number(run: RunFolder) -> None:
    (backbone,) = mapped_backbones([run])
    assert [backbone.class_name(index) for index in (0, 2, 3)] == ["cat", "ship", "3"]


def test_boxes_of_differences() -> None:
    first = np.zeros((3, 4, 10), np.uint8)
    second = first.copy()
    assert difference_box(first, second) is None
    second[1, 3, 9] = 1
    assert difference_box(first, second) == PlacedPicture(0.9, 0.75, 0.1, 0.25)


def test_correlation() -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert correlation(values, 3 * values + 1) == pytest.approx(1)
    assert correlation(values, -values) == pytest.approx(-1)
    assert correlation(values, np.ones((2, 3))) == 0


@pytest.mark.parametrize(
    ("value", "text"), [(0.284, ".28"), (-0.052, "-.05"), (1.0, "1.0"), (0.996, "1.0"), (0.0, ".00"), (-1.0, "-1.0")]
)
def test_shares_in_few_letters(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.00412, "4e-3"), (2.6e-12, "3e-12"), (0.069, "0.069"), (3.21, "3.2")]
)
def test_errors_in_few_letters(value: float, text: str) -> None:
    assert scientific(value) == text
