"""No value changes between a suite file and its run: what several readers of YAML read differently is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.file.load import load_suite
from qpatchbench.types import Size, Transformation

SUITE = """\
suite: small
dataset: {name: fake, image_size: 16}
models: [resnet20]
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}]
attacks: [{name: lavan, size: 4}]
"""
PLAIN = "in plain decimal form such as 10 or 0.5"
QUOTES = "; put it in quotes if it is text"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def refused(path: Path, *assignments: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load_suite(path, assignments)
    return list(caught.value.problems)


def marked(path: Path, text: str) -> str:
    """Write a suite whose wrong value follows a @, without it; and where that value stands."""
    before = text.partition("@")[0]
    path.write_text(text.replace("@", ""))
    return f"{path}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("size: 4", "size: @012", "attacks[0].size", f"expected a number, {PLAIN}, found 012{QUOTES}"),
        ("size: 4", "size: @0x4", "attacks[0].size", f"expected a number, {PLAIN}, found 0x4{QUOTES}"),
        ("size: 4", "size: @0b100", "attacks[0].size", f"expected a number, {PLAIN}, found 0b100{QUOTES}"),
        ("size: 4", "size: @0:4", "attacks[0].size", f"expected a number, {PLAIN}, found 0:4{QUOTES}"),
        ("size: 4", "size: @04%", "attacks[0].size", "expected a side in pixels such as 6, or a share of the "
         "image such as 4%, found '04%'"),
        ("[32, 4]", "[32, @010]", "quantizers[0].bits[1]", f"expected a number, {PLAIN}, found 010{QUOTES}"),
        ("[32, 4]", "[32, @08]", "quantizers[0].bits[1]", f"expected a number, {PLAIN}, found 08{QUOTES}"),
        ("[32, 4]", "[32, @'010']", "quantizers[0].bits[1]", "expected a bit-width such as 4 or w4a8, "
         "found '010'"),
        ("[32, 4]", "[32, @w04a8]", "quantizers[0].bits[1]", "expected a bit-width such as 4 or w4a8, "
         "found 'w04a8'"),
        ("[32, 4]", "[32, @!!int 010]", "quantizers[0].bits[1]", f"expected a whole number, {PLAIN}, found '010'"),
    ],
)  # fmt: skip
def test_a_number_is_written_in_plain_decimal_form(path: Path, old: str, new: str, key: str, problem: str) -> None:
    place = marked(path, SUITE.replace(old, new))
    assert refused(path) == [f"{place}: {key}: {problem}"]


@pytest.mark.parametrize(
    ("section", "key", "problem"),
    [
        ("training: {epochs: @yes}", "training.epochs", "expected a whole number, found 'yes'"),
        ("training: {epochs: @true}", "training.epochs", "expected a whole number, found true"),
        ("training: {epochs: @1_0}", "training.epochs", f"expected a number, {PLAIN}, found 1_0{QUOTES}"),
        ("training: {epochs: @'010'}", "training.epochs", "expected a whole number in plain decimal form, "
         "found '010'"),
        ("training: {epochs: @' 10'}", "training.epochs", "expected a whole number in plain decimal form, "
         "found ' 10'"),
        ("training: {learning_rate: @True}", "training.learning_rate", "expected a number, found true"),
        ("training: {learning_rate: @1e400}", "training.learning_rate", "expected a number that 64 bits can hold, "
         "found 1e400"),
        ("training: {learning_rate: @1e-400}", "training.learning_rate", "expected a number that 64 bits can hold, "
         "found 1e-400"),
        ("training: {momentum: @0_0.5}", "training.momentum", f"expected a number, {PLAIN}, found 0_0.5{QUOTES}"),
        ("training: {nesterov: @1}", "training.nesterov", "expected true or false, found 1"),
        ("training: {nesterov: @!!null 1}", "training.nesterov", "expected nothing, found '1'"),
        ("analysis: {maps: @true}", "analysis.maps", "expected a whole number, found true"),
        ("seeds: [0, @true]", "seeds[1]", "expected a whole number, found true"),
        ("seeds: [0, @9223372036854775808]", "seeds[1]", "expected a whole number of at most 64 bits, "
         "found 9223372036854775808"),
        ("sweep: {rotations: [@.nan]}", "sweep.rotations[0]", "expected a finite number, found nan"),
        ("sweep: {rotations: [1.5, @-.inf]}", "sweep.rotations[1]", "expected a finite number, found -inf"),
        ("sweep: {shifts: [[1, @true]]}", "sweep.shifts[0][1]", "expected a whole number, found true"),
    ],
)  # fmt: skip
def test_a_value_is_of_the_kind_that_its_key_wants(path: Path, section: str, key: str, problem: str) -> None:
    place = marked(path, SUITE + section)
    assert refused(path) == [f"{place}: {key}: {problem}"]


@pytest.mark.parametrize(
    ("section", "key", "problem"),
    [
        ("sweep: {rotations: [5, 10, @5.0]}", "sweep.rotations[2]", "expected distinct entries, found 5.0 again"),
        ("sweep: {shifts: [[1, 1], @[1, 1]]}", "sweep.shifts[1]", "expected distinct entries, found [1, 1] again"),
        ("sweep: {sizes: [6, @6]}", "sweep.sizes[1]", "expected distinct entries, found 6 again"),
        ("transfer: {sources: [4, @w4a4]}", "transfer.sources[1]", "expected distinct entries, found 4 again"),
        ("exclude: [{attack: [lavan, @lavan]}]", "exclude[0].attack[1]", "expected distinct entries, "
         "found lavan again"),
    ],
)  # fmt: skip
def test_an_item_stands_once(path: Path, section: str, key: str, problem: str) -> None:
    place = marked(path, SUITE + section)
    assert refused(path) == [f"{place}: {key}: {problem}"]


def test_a_class_is_a_target_once(path: Path) -> None:
    assert refused(path, "attacks.0.targets=[3, 3]") == [
        "--set attacks.0.targets: attacks[0].targets: expected every class once, found 3 repeatedly"
    ]
    assert refused(path, "attacks.0.targets=[]") == [
        "--set attacks.0.targets: attacks[0].targets: expected at least one class, found an empty list"
    ]


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("attacks.0.size=012", f"--set attacks.0.size:1:1: attacks.0.size: expected a number, {PLAIN}, found 012"),
        ("training.epochs=1_0", f"--set training.epochs:1:1: training.epochs: expected a number, {PLAIN}, found 1_0"),
        ("training.epochs=yes", "--set training.epochs: training.epochs: expected a whole number, found 'yes'"),
        ("training.epochs=true", "--set training.epochs: training.epochs: expected a whole number, found true"),
        ("attacks.0.steps=true", "--set attacks.0.steps: attacks[0].steps: expected a whole number, found true"),
        ("seeds=[0, 1e99]", "--set seeds: seeds[1]: expected a whole number, found 1e+99"),
    ],
)
def test_an_override_is_read_as_strictly(path: Path, assignment: str, problem: str) -> None:
    assert [text.removesuffix(QUOTES) for text in refused(path, assignment)] == [problem]


def test_a_scale_is_read_as_strictly(path: Path) -> None:
    path.write_text(f"{SUITE}scales: {{tiny: {{training.epochs: true, evaluation.images: 0o17}}}}\n")
    assert refused(path) == [
        f"{path}:7:59: scales.tiny.evaluation.images: expected a number, {PLAIN}, found 0o17{QUOTES}"
    ]
    path.write_text(f"{SUITE}scales: {{tiny: {{training.epochs: true}}}}\n")
    with pytest.raises(SuiteError, match=r"7:34: training.epochs: expected a whole number, found true"):
        load_suite(path, scale="tiny")


def test_what_all_readers_read_alike_is_accepted(path: Path) -> None:
    suite = load_suite(
        path,
        [
            "training.learning_rate=1e-3",
            "training.momentum=.5",
            "training.weight_decay=0",
            "training.nesterov=on",
            "training.epochs=5",
            "evaluation.checks=off",
            'attacks.0.label="012"',
            "quantizers.0.label=no",
            "models.0.label=1.2.3",
            "sweep.rotations=[-5, 2.5]",
        ],
    )
    training = suite.training
    assert (training.learning_rate, training.momentum, training.weight_decay) == (0.001, 0.5, 0)
    assert (training.nesterov, training.epochs, suite.evaluation.checks) == (True, 5, "off")
    assert [suite.attacks[0].title, suite.quantizers[0].title, suite.models[0].title] == ["012", "no", "1.2.3"]
    assert suite.sweep.rotations == (-5, 2.5)


def test_a_share_and_an_angle_are_written_with_all_their_digits() -> None:
    """The manifest and the rows of a run name them so."""
    size = Size.parse("33.333333333%")
    assert Size.parse(size.plain()) == size
    assert Size.parse("4%").plain() == "4%"
    angles = [Transformation(angle=angle) for angle in (10, 10.0000001)]
    assert [str(angle) for angle in angles] == ["rotation 10", "rotation 10.0000001"]
