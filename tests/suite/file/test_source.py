"""Reading a suite file, and overriding it from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.file.load import load_suite, load_with_source, scales_of
from qpatchbench.suite.file.overrides import override
from qpatchbench.suite.file.source import Source, dotted, read_source
from qpatchbench.types import FLOAT, Bits

SUITE = """\
suite: small
dataset: fake
models: [resnet20, {name: vgg16, label: mine}]
defenses:
  - qat
quantizers: [{name: qat, bits: [32, 4]}]
attacks:
  - {name: lavan, size: 4}
  - name: gap
    size: 4
training:
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE.replace("training:\n", ""))
    return path


def refused(path: Path, *assignments: str) -> str:
    with pytest.raises(SuiteError) as caught:
        load_suite(path, assignments)
    return "\n".join(caught.value.problems)


def test_every_key_and_value_has_its_place(path: Path) -> None:
    source = read_source(path)
    assert source.where(("suite",)) == f"{path}:1:8"
    assert source.where(("suite",), key=True) == f"{path}:1:1"
    assert source.where(("models", 1, "label")) == f"{path}:3:41"
    assert source.where(("attacks", 1, "size"), key=True) == f"{path}:10:5"
    assert source.where(("attacks", 1, "steps")) == f"{path}:9:5", "a missing key stands at what should hold it"
    assert source.where(("nowhere", 3)) == f"{path}:1:1"
    assert source.data["attacks"][1] == {"name": "gap", "size": 4}


def test_a_path_is_shown_as_python_writes_it() -> None:
    assert dotted(("attacks", 1, "size")) == "attacks[1].size"
    assert dotted(()) == ""


def test_a_missing_file_names_the_suites_beside_it(path: Path) -> None:
    with pytest.raises(SuiteError, match=rf"smal.yaml: no such suite file. Suites there: {path}."):
        read_source(path.with_name("smal.yaml"))
    with pytest.raises(SuiteError, match=r"nowhere/small.yaml: no such suite file.$"):
        read_source(path.parent / "nowhere" / "small.yaml")
    with pytest.raises(SuiteError, match="expected a YAML text file"):
        read_source(path.parent)


def test_anchors_aliases_and_merges_are_plain_yaml(path: Path) -> None:
    path.write_text(
        """\
suite: small
dataset: fake
models: [resnet20]
defenses: [qat]
quantizers: [{name: qat, bits: &widths [32, 4]}, {name: ptq, bits: *widths}]
attacks:
  - &quick {name: lavan, size: 4, steps: 5}
  - {<<: *quick, name: gap}
  - <<: [*quick, {batch_size: 7}]
    size: 6
"""
    )
    suite, source = load_with_source(path)
    assert [(a.name, a.size.pixels, getattr(a, "steps", 0)) for a in suite.attacks] == [
        ("lavan", 4, 5),
        ("gap", 4, 5),
        ("lavan", 6, 5),
    ]
    assert getattr(suite.attacks[2], "batch_size", 0) == 7
    assert suite.quantizers[0].bits == suite.quantizers[1].bits == (FLOAT, Bits(4, 4))
    # A merged value stands where it is written, a replaced one where it is replaced.
    assert source.where(("attacks", 1, "steps")) == f"{path}:7:42"
    assert source.where(("attacks", 2, "size")) == f"{path}:10:11"
    # One place changed on the command line changes no other that shares its anchor.
    changed = load_suite(path, ["quantizers.0.bits=[32, 8]"])
    assert changed.quantizers[1].bits == (FLOAT, Bits(4, 4))
    changed = load_suite(path, ["quantizers.0.bits.1=8"])
    assert changed.quantizers[1].bits == (FLOAT, Bits(4, 4))


def test_aliases_of_aliases_cannot_fill_the_memory(path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(bomb))
    with pytest.raises(SuiteError, match="expected at most 10000 values"):
        read_source(path)


def test_overrides_reach_sections_lists_and_components_given_by_name(path: Path) -> None:
    suite = load_suite(
        path,
        [
            "suite=other",
            "training.epochs=3",
            "training.schedule=cosine",
            "dataset.image_size=8",
            "models.0.label=first",
            "attacks.1.targets=[1, 2]",
            "quantizers.0.bits.1=w4a8",
            "defenses.0={name: qat, joint: false}",
            "seeds=[3]",
            "limit=5",
        ],
    )
    assert suite.suite == "other"
    assert (suite.training.epochs, suite.training.schedule) == (3, "cosine")
    assert suite.dataset.side == 8
    assert suite.models[0].title == "first"
    assert suite.attacks[1].targets == (1, 2)
    assert suite.quantizers[0].bits == (FLOAT, Bits(4, 8))
    assert suite.defenses[0].bit_groups(suite.quantizers[0].bits) == ((FLOAT,), (Bits(4, 8),))
    assert suite.seeds == (3,)
    assert suite.limit == 5


def test_a_section_without_fields_can_be_filled(path: Path) -> None:
    path.write_text(SUITE)
    assert load_suite(path, ["training.epochs=3"]).training.epochs == 3


def test_the_last_override_wins(path: Path) -> None:
    assert load_suite(path, ["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epochs", "--set training.epochs: expected key.path=value, for example training.epochs=5"),
        ("=5", "--set =5: expected key.path=value, for example training.epochs=5"),
        ("training..epochs=5", "--set training..epochs=5: expected key.path=value, for example training.epochs=5"),
        ("attacks.7.size=5", "--set attacks.7.size=5: attacks[7] is not there"),
        ("attacks.2=gap", "--set attacks.2=gap: attacks[2] is not there"),
        ("attacks.size=5", "--set attacks.size=5: attacks.size is not there"),
        ("suite.name.x=5", "--set suite.name.x=5: suite.name is not there"),
        ("attacks.0.size.x=5", "--set attacks.0.size.x=5: attacks[0].size.x is not there"),
        ("seeds=[0", "--set seeds:1:3: not valid YAML: expected ',' or ']', but got '<stream end>' "
         "(while parsing a flow sequence, line 1)"),
        ("seeds=!!set {0}", "--set seeds:1:1: seeds: expected plain data, found the tag !!set"),
        ("training.epochs=-1", "--set training.epochs: training.epochs: expected a number of at least 0, found -1"),
        (
            "training.epoch=1",
            "--set training.epoch: training.epoch: unknown key 'epoch'. Did you mean: epochs? Available: ",
        ),
        ("trainig.epochs=1", "--set trainig.epochs: trainig: unknown key 'trainig'. Did you mean: training? "),
        ("attacks=[{name: lavan, size: 4}, {name: lavn, size: 4}]", "--set attacks: attacks[1].name: unknown attack "),
        ("attacks.1={name: gap, size: 64}", "--set attacks.1: attacks[1].size: expected a patch that fits into the "),
        ("attacks.0.size=4.5", "--set attacks.0.size: attacks[0].size: expected a side in pixels such as 6, or "),
        ("training.learning_rate=.nan", "--set training.learning_rate: training.learning_rate: expected a "),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_as_what_was_typed(path: Path, assignment: str, message: str) -> None:
    found = refused(path, assignment)
    assert found.startswith(message) if message.endswith(" ") else found == message


def test_problems_of_the_file_come_before_those_of_the_command_line(path: Path) -> None:
    path.write_text(SUITE.replace("training:", "seeds: []").replace("[resnet20,", "[resnt20,"))
    problems = refused(path, "attacks.0.size=-1").splitlines()
    assert [text.partition(": ")[0].removeprefix(str(path)) for text in problems] == [
        ":3:10",
        ":11:8",
        "--set attacks.0.size",
    ]


def test_a_deeper_override_after_a_whole_one_is_told_by_itself() -> None:
    source = Source("a.yaml", {"attacks": [{"size": 4}]}, values={("attacks",): (1, 1), ("attacks", 0, "size"): (2, 2)})
    override(source, "attacks=[{size: 4, name: gap}]")
    override(source, "attacks.0.size=5")
    assert source.where(("attacks", 0, "size")) == "--set attacks.0.size"
    assert source.where(("attacks", 0, "name")) == "--set attacks"


SCALES = """\
scales:
  small:
    training.epochs: 3
    models: [{name: resnet20, label: light}]
    attacks.1.size: 6
    seeds: [7]
  smaller: {training: {epochs: 1}}
"""


@pytest.fixture
def scaled(path: Path) -> Path:
    path.write_text(path.read_text() + SCALES)
    return path


def test_a_scale_is_a_named_set_of_overrides(scaled: Path) -> None:
    assert scales_of(scaled) == ("small", "smaller")
    full, small = load_suite(scaled), load_suite(scaled, scale="small")
    assert (full.suite, small.suite) == ("small", "small_small")
    assert (full.training.epochs, small.training.epochs) == (200, 3)
    assert [model.title for model in small.models] == ["light"]
    assert [str(attack.size) for attack in small.attacks] == ["4x4", "6x6"]
    assert (full.seeds, small.seeds) == ((0,), (7,))
    assert load_suite(scaled, scale="smaller").training.epochs == 1


def test_the_command_line_comes_after_the_scale(scaled: Path) -> None:
    assert load_suite(scaled, ["training.epochs=5"], "small").training.epochs == 5


def test_scales_are_no_part_of_what_is_run(path: Path) -> None:
    plain = load_suite(path).resolved()
    path.write_text(path.read_text() + SCALES)
    assert load_suite(path).resolved() == plain


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("epochs: 3", "epochs: -3", ":13:22: training.epochs: expected a number of at least 0, found -3"),
        ("name: resnet20, label", "name: resnt20, label", ":14:21: models[0].name: unknown model 'resnt20'. Did "),
        ("attacks.1.size: 6", "attacks.7.size: 6", ":15:21: scales.small.attacks.7.size: attacks[7] is not there"),
        ("seeds: [7]", "seed: [7]", ":16:5: seed: unknown key 'seed'. Did you mean: seeds? "),
        ("  small:\n", "  smal:\n", ":12:3: --scale small: this suite has no scale 'small'. Did you mean: smal? "),
        (
            "small:\n    training.epochs: 3",
            "small: 3\n  other:\n    training.epochs: 3",
            ":12:10: scales.small: expected a mapping of key.path to value, such as training.epochs: 5",
        ),
        ("  smaller: {training: {epochs: 1}}", "  smaller: 4", ":17:12: scales.smaller: expected a mapping, found 4"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_scale_is_told_where_it_stands(scaled: Path, before: str, after: str, expected: str) -> None:
    text = scaled.read_text()
    assert before in text
    scaled.write_text(text.replace(before, after))
    with pytest.raises(SuiteError) as caught:
        load_suite(scaled, scale="small")
    found = "\n".join(caught.value.problems).removeprefix(str(scaled))
    assert found.startswith(expected) if expected.endswith(" ") else found == expected


def test_a_scale_of_a_suite_without_any(path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(path, scale="small")
    assert caught.value.problems == (f"{path}:1:1: --scale small: this suite has no scale 'small'. None is available.",)
