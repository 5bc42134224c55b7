"""Figures of the papers: every point that is drawn is a number of the run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from qpatchbench.report.figures import CATALOGUE, Drawing, drawings
from qpatchbench.report.figures.drawing.style import beside, bits_styles, name_styles
from qpatchbench.report.figures.pixel_attacks import strengths
from qpatchbench.report.leaderboard.published import read_folder
from qpatchbench.statistics.intervals import Array, wilson
from tests.report.made_up_runs import cost, pixel_attack, pixel_row, row, similarities, write_run

FGSM = [pixel_attack("fgsm", 0.01, "weak"), pixel_attack("fgsm", 0.03, "strong"), pixel_attack("pgd", 0.03)]


class Line(NamedTuple):
    """A line as it was drawn: y and the ends of its bar, by x."""

    x: list[float]
    y: list[float]
    bars: list[tuple[float, float]]


def drawn(name: str, *folders: Path) -> list[Drawing]:
    return drawings(CATALOGUE[name], [read_folder(folder) for folder in folders])


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def lines(axes: Axes) -> dict[str, Line]:
    return {str(each.get_label()): _line(each) for each in axes.containers if isinstance(each, ErrorbarContainer)}


def _line(container: ErrorbarContainer) -> Line:
    data, _, bars = container.lines
    assert data is not None
    return Line(
        numbers(data.get_xdata()), numbers(data.get_ydata()), [(bar[0][1], bar[1][1]) for bar in segments(bars[0])]
    )


def numbers(values: ArrayLike) -> list[float]:
    return [float(value) for value in np.asarray(values)]


def segments(bars: Collection) -> list[Array]:
    """Ends of straight lines, each [[x, y], [x, y]]."""
    assert isinstance(bars, LineCollection)
    return [np.asarray(segment) for segment in bars.get_segments()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def near(line: Line, places: Sequence[float]) -> bool:
    """Lines are set beside each other by less than half a gap."""
    return all(
        abs(x - place) < 0.25 * (places[-1] - places[0]) / len(places) for x, place in zip(line.x, places, strict=True)
    )


# --- accuracy under pixel attacks


def test_pixel_attacks_draw_the_accuracies_of_the_run(tmp_path: Path) -> None:
    accuracies = {("weak", "32"): 70.5, ("strong", "32"): 31, ("weak", "4"): 66, ("strong", "4"): 12.5}
    rows = [
        pixel_row(attack, bits, value, clean_accuracy=94 if bits == "32" else 88)
        for (attack, bits), value in accuracies.items()
    ]
    rows += [pixel_row("pgd", "4", 0, clean_accuracy=88)]
    rows += [
        pixel_row("weak", "4", 1, source_bits="32", source_quantization="fp", lineage="shared-weights"),
        row(target_bits="4"),
    ]
    [drawing] = drawn(
        "pixel_attacks", write_run(tmp_path, rows, attacks=[*FGSM, {"name": "gap", "label": None, "size": 6}])
    )
    assert drawing.name == "pixel-attacks_cifar10-jpeg_resnet20_qat_qat"
    first, second = panels(drawing.figure)
    assert [axes.get_title() for axes in (first, second)] == ["fgsm", "pgd"]
    assert list(lines(first)) == ["32-bit", "4-bit"]
    assert list(lines(second)) == ["4-bit"]
    expected = {"32-bit": [94, 70.5, 31], "4-bit": [88, 66, 12.5]}
    for label, line in lines(first).items():
        assert line.y == expected[label]
        assert near(line, [0, 0.01, 0.03])
        for value, ends in zip(line.y, line.bars, strict=True):
            assert ends == pytest.approx([100 * bound for bound in wilson(round(2 * value), 200)])
    assert lines(second)["4-bit"].y == [88, 0]
    assert lines(second)["4-bit"].bars[1] == pytest.approx([0, 100 * wilson(0, 200).high])
    assert legend(drawing.figure) == ["32-bit", "4-bit"]
    assert "defense qat, qat on cifar10 (jpeg)" in drawing.figure.get_suptitle()
    assert "200 images" in drawing.figure.get_suptitle()


def test_a_float_network_stands_beside_each_mode(tmp_path: Path) -> None:
    rows = [
        pixel_row("weak", "32", 60),
        pixel_row("weak", "8", 59),
        pixel_row("weak", "8", 58, quantization="ptq-minmax"),
    ]
    found = drawn("pixel_attacks", write_run(tmp_path, rows, attacks=FGSM))
    assert [drawing.name.rpartition("_")[2] for drawing in found] == ["ptq-minmax", "qat"]
    assert [[line.y[1] for line in lines(panels(each.figure)[0]).values()] for each in found] == [[60, 58], [60, 59]]


def test_epsilons_are_those_of_each_run(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [pixel_row("weak", "4", 60)], attacks=FGSM)
    other = [pixel_attack("fgsm", 0.5, "weak")]
    two = write_run(
        tmp_path / "two", [pixel_row("weak", "4", 20, model="vgg16"), pixel_row("weak", "4", 1)], attacks=other
    )
    found = {each.name: lines(panels(each.figure)[0])["4-bit"] for each in drawn("pixel_attacks", one, two)}
    assert found["pixel-attacks_cifar10-jpeg_resnet20_qat_qat"][:2] == ([0, 0.01], [90, 60])
    assert found["pixel-attacks_cifar10-jpeg_vgg16_qat_qat"][:2] == ([0, 0.5], [90, 20])


def test_attacks_of_one_epsilon_are_told_apart_by_what_differs() -> None:
    listed = [pixel_attack("pgd", 0.03, "short", steps=5), pixel_attack("pgd", 0.03, "long", steps=50)]
    found = strengths({"attacks": listed})
    assert {title: each.panel for title, each in found.items()} == {"short": "pgd (steps 5)", "long": "pgd (steps 50)"}
    apart = [pixel_attack("pgd", 0.01, "a", step_size=0.002), pixel_attack("pgd", 0.03, "b", step_size=0.006)]
    assert {each.panel for each in strengths({"attacks": apart}).values()} == {"pgd"}
    assert strengths({"attacks": [{**FGSM[0], "size": 6}]}) == {}
    assert strengths({}) == {}


# --- similarity of bit-widths


def test_similarity_draws_every_pair_with_its_interval_and_chance(tmp_path: Path) -> None:
    rows = similarities(["backbone.conv1", "input gradient"])
    [drawing] = drawn("similarity", write_run(tmp_path, similarity=rows))
    found = panels(drawing.figure)
    assert len(found) == 4
    for axes, (metric, layer) in zip(
        found, itertools.product(("edge_iou", "hog_cosine"), ("backbone.conv1", "input gradient")), strict=True
    ):
        own = [each for each in rows if (each["metric"], each["layer"]) == (metric, layer)]
        for content in ("clean", "patched"):
            values = [each["value"] for each in own if each["images"] == content]  # 32-4, 32-2, 4-2
            line = lines(axes)[content]
            assert line.y == values
            assert [round(x) for x in line.x] == [0, 1, 2]
            assert line.bars == [pytest.approx((value - 1.959964 * 0.02, value + 1.959964 * 0.02)) for value in values]
        assert _levels(axes) == {own[0]["chance"]}
        low, high = axes.get_ylim()
        assert low < min(own[0]["chance"], *(each["value"] for each in own))
        assert high > 1
    assert [text.get_text() for text in found[2].get_xticklabels()] == ["32–4", "32–2", "4–2"]
    assert [axes.get_title() for axes in found[:2]] == ["conv1", "input gradient"]
    assert legend(drawing.figure) == ["clean", "patched", "chance (independent noise)"]


def _levels(axes: Axes) -> set[float]:
    [chance] = [each for each in axes.collections if each.get_label() == "chance (independent noise)"]
    return {float(segment[0][1]) for segment in segments(chance)}


def test_seeds_are_averaged_and_widen_the_interval(tmp_path: Path) -> None:
    one, other = similarities(["conv1"], seed=0, value=0.6), similarities(["conv1"], seed=1, value=0.8)
    [drawing] = drawn("similarity", write_run(tmp_path, similarity=[*one, *other]))
    line = lines(panels(drawing.figure)[0])["clean"]
    half = 1.959964 * math.sqrt(2 * 0.02**2 / 4 + 0.02 / 2)
    assert line.y == pytest.approx([0.7] * 3)
    assert line.bars[0] == pytest.approx((0.7 - half, 0.7 + half))


def test_many_layers_fill_several_pages_and_defenses_have_their_own(tmp_path: Path) -> None:
    layers = [f"backbone.layer{number}" for number in range(5)]
    found = drawn(
        "similarity", write_run(tmp_path, similarity=[*similarities(layers), *similarities(["conv1"], defense="pbat")])
    )
    names = [drawing.name for drawing in found]
    assert names == [f"similarity_cifar10-jpeg_resnet20_{rest}" for rest in ("pbat_qat", "qat_qat_1", "qat_qat_2")]
    assert [len(panels(drawing.figure)) for drawing in found] == [2, 8, 2]


def test_a_single_image_has_no_interval(tmp_path: Path) -> None:
    [drawing] = drawn("similarity", write_run(tmp_path, similarity=similarities(["conv1"], standard_error=None)))
    line = lines(panels(drawing.figure)[0])["clean"]
    assert len(line.y) > 0, "nothing was drawn"
    assert all(low == high == value for value, (low, high) in zip(line.y, line.bars, strict=True))


# --- sweeps


def test_sweep_draws_rate_and_control_against_size(tmp_path: Path) -> None:
    rows = []
    for bits, side in itertools.product(("8", "2"), (10, 4, 6)):
        control_rate = {"asr_control": side, "asr_control_low": side / 2, "asr_control_high": side + 3}
        rate = {"asr": 5 * side + int(bits), "asr_low": side, "asr_high": 99}
        rows.append(row(target_bits=bits, patch_height=side, patch_width=side, **rate, **control_rate))
    [drawing] = drawn("sweep", write_run(tmp_path, rows))
    assert drawing.name == "sweep_size_bits_cifar10-jpeg_resnet20_qat_qat_gap_white-box"
    attacked, control = panels(drawing.figure)
    assert list(lines(attacked)) == list(lines(control)) == ["8-bit", "2-bit"]
    for label, line in lines(attacked).items():
        width = int(label[0])
        assert line.y == [20 + width, 30 + width, 50 + width]
        assert line.bars == [pytest.approx((side, 99)) for side in (4, 6, 10)]
        assert near(line, [4, 6, 10])
        assert lines(control)[label].y == [4, 6, 10]
        assert lines(control)[label].bars == [pytest.approx((side / 2, side + 3)) for side in (4, 6, 10)]
    assert attacked.get_ylim() == control.get_ylim()
    assert control.get_xlabel() == "patch side (pixels)"


def test_moved_patches_have_pages_of_their_own_with_the_resting_one_as_origin(tmp_path: Path) -> None:
    moved = {
        "": 80,
        "shift 8,8": 70,
        "shift 2,2": 75,
        "shift -2,0": 76,
        "rotation 30": 60,
        "rotation -10": 65,
        "rotation 5": 68,
    }
    rows = [
        row(target_bits="4", transformation=name, asr=value, asr_low=value - 2, asr_high=value + 2)
        for name, value in moved.items()
    ]
    by_name = {each.name.split("_")[1]: each.figure for each in drawn("sweep", write_run(tmp_path, rows))}
    assert list(by_name) == ["shift", "rotation"]
    shift, rotation = (panels(by_name[name]) for name in ("shift", "rotation"))
    assert lines(shift[0])["4-bit"].y == [80, 76, 75, 70]
    assert [text.get_text() for text in shift[1].get_xticklabels()] == ["0,0", "-2,0", "2,2", "8,8"]
    assert lines(rotation[0])["4-bit"][:2] == ([-10, 0, 5, 30], [65, 80, 68, 60])
    assert "6x6 gap, white-box" in by_name["shift"].get_suptitle()


def test_sources_are_not_mixed(tmp_path: Path) -> None:
    """One line each: on itself, from the float network (which is itself at 32 bits), and from another model."""
    float_source = {"source_bits": "32", "source_quantization": "fp"}
    rows = []
    for side in (4, 6):
        size = {"patch_height": side, "patch_width": side}
        rows += [row(target_bits="32", asr=side, **size), row(target_bits="4", asr=10 + side, **size)]
        rows += [row(target_bits="4", asr=20 + side, lineage="shared-weights", **size, **float_source)]
        rows += [
            row(target_bits="4", asr=30 + side, lineage="independent", source_model="vgg16", **size, **float_source)
        ]
        rows += [
            row(
                target_bits="4",
                asr=40 + side,
                lineage="ensemble",
                **size,
                source_bits="ensemble",
                source_quantization="fp+qat",
            )
        ]
    found = {
        each.name.rpartition("gap_")[2]: lines(panels(each.figure)[0])
        for each in drawn("sweep", write_run(tmp_path, rows))
    }
    assert {name: {label: line.y for label, line in own.items()} for name, own in found.items()} == {
        "white-box": {"32-bit": [4, 6], "4-bit": [14, 16]},
        "crafted-at-32-bits": {"32-bit": [4, 6], "4-bit": [24, 26]},
        "crafted-at-32-bits-on-vgg16": {"4-bit": [34, 36]},
        "crafted-on-several-bit-widths": {"4-bit": [44, 46]},
    }


def test_defenses_are_compared_at_each_bit_width(tmp_path: Path) -> None:
    rows = [row(target_bits=bits, defense=defense, patch_height=side, patch_width=side, asr=side + 10 * place)
            for bits in ("8", "4") for place, defense in enumerate(("qat", "pbat")) for side in (4, 6)]  # fmt: skip
    found = [each for each in drawn("sweep", write_run(tmp_path, rows)) if "_defense_" in each.name]
    assert [each.name for each in found] == [
        f"sweep_size_defense_cifar10-jpeg_resnet20_qat_{bits}_gap_white-box" for bits in (8, 4)
    ]
    assert {label: line.y for label, line in lines(panels(found[0].figure)[0]).items()} == {
        "qat": [4, 6],
        "pbat": [14, 16],
    }


def test_one_size_alone_is_no_sweep(tmp_path: Path) -> None:
    failed = row(target_bits="4", patch_height=8, patch_width=8, asr="", clean_accuracy="", status="error")
    assert (
        drawn("sweep", write_run(tmp_path, [row(target_bits="4"), failed, row(target_bits="4", transformation="odd")]))
        == []
    )


# --- costs


def test_costs_draw_ratios_with_quartiles_below_each_other(tmp_path: Path) -> None:
    table = [cost("qat", "32 8 2", 1, 1), cost("triqdef", "32 8 2", 1.5, 1.2), cost("pbat", "32", 0.5, 0.25)]
    [drawing] = drawn("costs", write_run(tmp_path, costs=table))
    assert drawing.name == "costs_cifar10-jpeg_resnet20_qat"
    time, memory = panels(drawing.figure)
    assert numbers(time.lines[0].get_xdata()) == [1, 1.5, 0.5]
    assert numbers(memory.lines[0].get_xdata()) == [1, 1.2, 0.25]
    bars = [(bar[0][0], bar[1][0]) for bar in segments(time.collections[0])]
    assert bars == [pytest.approx((0.95 * ratio, 1.2 * ratio)) for ratio in (1, 1.5, 0.5)]
    assert [text.get_text() for text in time.get_yticklabels()] == ["qat (3)", "triqdef (3)", "pbat (1)"]


def test_costs_at_several_widths_are_lines(tmp_path: Path) -> None:
    table = [
        cost("qat", "32 8 2", 1, 1),
        cost("qat", "32", 0.4, 0.3),
        cost("qat", "32 8", 0.7, 0.6),
        cost("pbat", "32", 0.5, 0.25),
    ]
    [drawing] = drawn("costs", write_run(tmp_path, costs=table))
    time, memory = panels(drawing.figure)
    assert [round(x) for x in lines(time)["qat"].x] == [1, 2, 3]
    assert lines(time)["qat"].y == [0.4, 0.7, 1]
    assert [round(x) for x in lines(time)["pbat"].x] == [1]
    assert lines(time)["pbat"].y == [0.5]
    assert lines(memory)["qat"].y == [0.3, 0.6, 1]
    assert lines(time)["qat"].bars[1] == pytest.approx((0.7 * 0.95, 0.7 * 1.2))
    assert time.get_xlabel() == memory.get_xlabel() == "bit-widths active"


def test_seeds_are_measured_apart_and_folders_without_active_bits_count_their_own(tmp_path: Path) -> None:
    table = [cost("qat", "32 8", 1, 1, seed=seed, active_bits=None) for seed in (0, 1)]
    found = drawn("costs", write_run(tmp_path, costs=table))
    assert [drawing.name for drawing in found] == [f"costs_cifar10-jpeg_resnet20_qat_{seed}" for seed in (0, 1)]
    assert panels(found[1].figure)[0].get_yticklabels()[0].get_text() == "qat (2)"


# --- style


def _luminance(colour: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _lightness(colour: str) -> float:
    """CIE L*, 0 to 100: what is left on a grey printer."""
    return float(116 * _luminance(colour) ** (1 / 3) - 16)


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_bit_widths_are_apart_in_grey_and_in_order(count: int) -> None:
    styles = bits_styles(["2", "32", "8", "4", "5", "16"][:count])
    greys = [_lightness(style.colour) for style in styles.values()]
    assert list(styles) == sorted(styles, key=int, reverse=True)
    assert all(second - first > 10 for first, second in itertools.pairwise(greys))
    assert greys[-1] < 80  # on white paper, L* = 100
    assert len({style.marker for style in styles.values()}) == count


def test_names_differ_in_marker_and_dashes_whatever_their_colour() -> None:
    styles = name_styles([f"defense {number}" for number in range(30)])
    assert len({(style.marker, str(style.dashes)) for style in styles.values()}) == 30
    assert all(_lightness(style.colour) < 80 for style in styles.values())


def test_lines_beside_each_other_keep_apart_from_their_neighbours() -> None:
    for count, places in itertools.product((1, 2, 11), ([0.0, 0.01, 0.5], [1.0, 2.0], [4.0])):
        shifts = beside(count, places)
        assert sum(shifts) == pytest.approx(0, abs=1e-12)
        if len(places) > 1:
            assert max(shifts) - min(shifts) < 0.5 * min(second - first for first, second in itertools.pairwise(places))


def test_names_that_differ_in_unsafe_characters_do_not_overwrite_each_other(tmp_path: Path) -> None:
    rows = [pixel_row("weak", "4", 50, defense=defense) for defense in ("a/b", "a b", "A-b")]
    names = [drawing.name for drawing in drawn("pixel_attacks", write_run(tmp_path, rows, attacks=FGSM))]
    assert len({name.lower() for name in names}) == 3


def test_the_figures_are_ours_whatever_matplotlibrc_says(tmp_path: Path) -> None:
    import matplotlib as mpl

    run = write_run(tmp_path, [pixel_row("weak", "4", 50)], attacks=FGSM)
    with mpl.rc_context({"font.size": 30, "text.usetex": True}):
        [drawing] = drawn("pixel_attacks", run)
        assert mpl.rcParams["font.size"] == 30
    for axes in panels(drawing.figure):
        sizes = [text.get_fontsize() for text in _texts(axes)]
        assert all(7 <= size <= 8 for size in sizes)


def _texts(axes: Axes) -> Iterator[Any]:
    yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels())
