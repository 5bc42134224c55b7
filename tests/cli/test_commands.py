"""The commands: what they print, what they cost, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from qpatchbench.cli import COMMANDS, cli
from qpatchbench.errors import SuiteError
from qpatchbench.registry import REGISTRIES
from qpatchbench.suite.file.load import scales_of
from tests.cli.conftest import TinyRuns
from tests.cli.running import ended

ROOT = Path(__file__).parents[2]
SUITES = sorted(path.relative_to(ROOT) for path in (ROOT / "suites").glob("**/*.yaml"))
SUITE = """\
# a suite for nothing but this test
suite: small
dataset: {name: fake, image_size: 16}
models: [resnet20]
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}]
attacks: [{name: lavan, size: 4}]
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def started(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as people run it."""
    return subprocess.run(
        [sys.executable, "-m", "qpatchbench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def processor_seconds(*arguments: str, cache: str = "") -> float:
    """Time that the command computes; waiting for other processes on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = started(*arguments, QPATCHBENCH_CACHE=cache)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite file in the current folder, which holds nothing else; the cache is beside it and empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QPATCHBENCH_DATA", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def untouched(suite: Path) -> bool:
    return list(suite.parent.iterdir()) == [suite]


@pytest.mark.parametrize("arguments", [("--help",), ("list", "attacks", "--json")])
def test_help_and_lists_answer_at_once(arguments: tuple[str, ...]) -> None:
    assert min(processor_seconds(*arguments) for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list", "models"], ["describe", "attack", "lavan"], ["schema", "suite"]],
)
def test_what_only_informs_loads_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["qpatchbench", *{arguments!r}]
from qpatchbench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in ("torch._C", "timm", "pandas", "matplotlib", "sklearn") if name in sys.modules]
assert not heavy, heavy
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_help_lists_every_command_and_each_explains_itself() -> None:
    text = invoke("--help").output
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: cli {name} ")


def test_version() -> None:
    assert re.fullmatch(r"qpatchbench, version \d+\.\d+\.\d+\S*\n", invoke("--version").output)


@pytest.mark.parametrize("kind", [*REGISTRIES, "suites", "plugins"])
def test_lists(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = json.loads(invoke("list", kind, "--json").output)
    assert all(set(row) >= {"name", "summary", "reference", "plugin"} for row in rows)
    text = invoke("list", kind).output
    if not rows:
        assert text == f"no {kind} are registered\n"
    lines = text.splitlines() if rows else []
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert all(row["summary"] in line for row, line in zip(rows, lines, strict=True))
    if kind in REGISTRIES:
        assert [row["name"] for row in rows] == list(REGISTRIES[kind].entries)
        assert invoke("list", kind.removesuffix("s"), "--json").output == invoke("list", kind, "--json").output
    if kind == "suites":
        assert [row["name"] for row in rows] == [str(path) for path in SUITES]
        assert all(row["summary"] for row in rows), "the first line of a suite says what it is for"


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_component_is_described_with_every_field(kind: str) -> None:
    for name, entry in REGISTRIES[kind].entries.items():
        result = invoke("describe", kind, name)
        assert result.exception is None, name
        assert result.output.startswith(f"{name} ({REGISTRIES[kind].kind}, {entry.plugin}): {entry.summary}\n")
        assert entry.reference in result.output
        fields = REGISTRIES[kind].get(name).model_fields
        for field, facts in fields.items():
            if field in ("name", "label"):
                continue
            pattern = rf"^  {field} = (.+)   \((.+)\)\n      {re.escape(facts.description or '')}$"
            found = re.search(pattern, result.output, re.MULTILINE)
            assert found, f"{name}: {field}"
            assert (found[1] == "required") is facts.is_required()
            assert "any" not in found[2].split(), f"{name}: {field} has a type that is not told: {found[2]}"
        schema = json.loads(invoke("describe", kind, name, "--json").output)
        assert set(schema["properties"]) == set(fields)


def test_a_range_and_a_unit_are_shown() -> None:
    assert 'size = "4%"' in invoke("describe", "defense", "qadtr").output, "as a suite writes it"
    text = invoke("describe", "quantizer", "ptq").output
    assert "  percentile = 99.99   (number; above 0, at most 100; %)\n" in text
    assert '  calibration = "minmax"   (minmax | percentile | mse)\n' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "attack", "lavn"], "unknown attack 'lavn'. Did you mean: lavan?"),
        (["describe", "attak", "lavan"], "no kind 'attak'. Did you mean: attacks?"),
        (["list", "atacks"], "no kind 'atacks'. Did you mean: attacks?"),
        (["validat", "x.yaml"], "no command 'validat'. Did you mean: validate?"),
        (["schema", "suites"], "'suites' is not one of 'suite', 'record'"),
        (["validate"], "Missing argument 'SUITES...'"),
        (["run", "small.yaml", "--limit", "0"], "0 is not in the range x>=1"),
        (["run", "small.yaml", "--checks", "some"], "'some' is not one of 'off', 'fast', 'full'"),
        (["run", "small.yaml", "--set", "training.epochs"], "--set training.epochs: expected key.path=value, for"),
        (["run", "small.yaml", "--set", "attacks.3.size=1"], "--set attacks.3.size=1: attacks[3] is not there"),
        (["run", "small.yaml", "--seeds", "0,a"], "--set seeds: seeds[1]: expected a whole number, found 'a'"),
        (["run", "small.yaml", "--device", "tpu9"], "expected auto, cpu, cuda, cuda:N or mps, found 'tpu9'"),
        (["run", "smal.yaml"], "smal.yaml: no such suite file. Suites there: small.yaml."),
        (["plan", "smal.yaml"], "smal.yaml: no such suite file. Suites there: small.yaml."),
        (["validate", "smal.yaml"], "smal.yaml: no such suite file. Suites there: small.yaml."),
        (["run", "small.yaml", "--set", "models.0.weights=a.pt"], "--set models.0.weights: weights 'a.pt': no file "),
        (["report", "nowhere"], "Directory 'nowhere' does not exist"),
        (["--plugin", "nowhere", "list", "attacks"], "plugin nowhere cannot be imported"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_one_message(suite: Path, arguments: list[str], message: str) -> None:
    result = ended(*arguments, folder=suite.parent)
    assert result.returncode == 2, result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert untouched(suite)


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_the_committed_suites_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = invoke("validate", str(path))
    assert result.return_value == 0
    assert result.output == f"{path}: valid\n"


def test_validate_stops_at_the_first_invalid_suite(suite: Path) -> None:
    broken = suite.with_name("broken.yaml")
    broken.write_text(SUITE.replace("lavan", "lavn"))
    result = invoke("validate", "small.yaml", "broken.yaml", "small.yaml")
    assert result.return_value == 2
    assert result.stdout == "small.yaml: valid\n"
    assert result.stderr.splitlines()[-1] == "broken.yaml: invalid, 1 error"


def test_the_largest_suite_is_planned_in_seconds(tmp_path: Path) -> None:
    largest = "suites/cifar_transfer.yaml"
    assert processor_seconds("plan", largest, cache=str(tmp_path / "cache")) < 8
    assert list(tmp_path.iterdir()) == []


def test_a_plan_shows_jobs_and_cost(suite: Path) -> None:
    text = invoke("plan", "small.yaml", "--set", "training.epochs=10").output
    # 832 training images at two widths, three passes each; sources 32 and same: two patches, three cells.
    assert "small: 14 jobs" in text
    assert "train: 1 jobs, 0 done, 49.9 thousand image passes to go" in text
    assert "deploy: 2 jobs" in text
    assert "craft: 4 jobs" in text
    assert "evaluate: 7 jobs" in text
    assert text.count("to do") == 14
    assert "\ntime: not known on " in text
    assert "before something ran here; --measure finds out in seconds\n" in text
    assert re.search(r"\ndisk: about [\d.]+ MB into .+ free\), about [\d.]+ [kM]B into results/small \(", text)
    assert re.search(r"\nmemory: about [\d.]+ MB at most, by craft .*; from activations counted without images\n", text)
    assert untouched(suite)


def test_a_plan_is_told_in_time_once_the_device_was_measured(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpatchbench.suite.plan.calibration.SECONDS", 0.0)
    told = invoke("plan", "small.yaml", "--device", "cpu", "--measure").output
    assert re.search(r"\ntime: about [\d:]+\d\d on .+ thread.*, one job after the other\n  about [\d:]+\d\d  ", told)
    assert re.search(r"\ntrain: 1 jobs, 0 done, .* image passes to go, about \d+:\d\d\n", told)
    found = json.loads(invoke("plan", "small.yaml", "--json").output)
    assert found["schema"] == 3
    assert len(found["jobs"]) == 14
    assert found["warnings"] == []
    assert found["disk"]["stored"] > sum(job["disk_bytes"] for job in found["jobs"])  # and the images
    assert found["memory"]["most"] == max(job["memory_bytes"] for job in found["jobs"])
    assert found["passes_of_unknown_pace"] == 0
    assert found["seconds"] == pytest.approx(sum(job["seconds"] for job in found["jobs"]))
    assert {job["done"] for job in found["jobs"]} == {False}


def test_a_run_tells_the_next_plan_its_pace(tiny_runs: TinyRuns) -> None:
    file = str(tiny_runs.root / "tiny.yaml")
    assert "time:" not in tiny_runs.invoke("plan", file).output  # nothing is missing
    more = tiny_runs.invoke("plan", file, "--seeds", "7").output
    assert re.search(r"\ntime: about \d+:\d\d on ", more), more
    assert "of unknown pace" not in more


def test_a_plan_tells_what_the_other_scales_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path))
    text = invoke("plan", str(ROOT / "suites/protocol/cifar.yaml")).output
    scales = scales_of(ROOT / "suites/protocol/cifar.yaml")
    assert (
        [line.split(":")[0] for line in text.splitlines() if line.startswith("--scale")]
        == [f"--scale {name}" for name in scales]
        != []
    )


def test_shorthands_are_overrides(suite: Path) -> None:
    text = invoke("plan", "small.yaml", "--seeds", "0,1,2", "--limit", "5").output
    assert "small: 42 jobs" in text


def test_a_dry_run_shows_the_plan_and_writes_nothing(suite: Path) -> None:
    result = invoke("run", "small.yaml", "--dry-run")
    assert result.return_value == 0
    what_is_left = re.compile(r"[\d.]+ .B (free|available)")  # other processes take some and give some back
    plan = invoke("plan", "small.yaml").output
    assert what_is_left.sub("", result.output) == what_is_left.sub("", plan)
    assert untouched(suite)


def test_a_missing_dataset_is_told_where_it_is_asked_for_and_was_looked_for(suite: Path) -> None:
    suite.write_text(SUITE.replace("{name: fake, image_size: 16}", "{name: cifar10}"))
    empty = suite.parent / "cache" / "data"
    with pytest.raises(SuiteError) as caught:
        invoke_raising("run", "small.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith("small.yaml:3:10: cifar10: the dataset is not there. Looked for:\n")
    assert str(empty) in problem
    assert "--data-dir or the environment variable QPATCHBENCH_DATA" in problem
    elsewhere = ended("run", "small.yaml", "--data-dir", "elsewhere", folder=suite.parent)
    assert elsewhere.returncode == 2
    assert elsewhere.stderr.startswith("small.yaml:3:10: cifar10: the dataset is not there. Looked for:\n")
    assert "elsewhere" in elsewhere.stderr
    assert untouched(suite)


def invoke_raising(*arguments: str) -> None:
    result = invoke(*arguments)
    assert result.exception is not None
    raise result.exception


# JSON schemas


def accepts(schema: Mapping[str, Any], value: object, root: Mapping[str, Any]) -> bool:
    """Whether a value keeps the rules of a JSON schema that structure one: types, keys, items, choices, bounds."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root)
    if "anyOf" in schema and not any(accepts(option, value, root) for option in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False
        return (
            set(schema.get("required", ())) <= set(value)
            and not (closed and set(value) - set(known))
            and all(accepts(known[key], item, root) for key, item in value.items() if key in known)
        )
    if isinstance(value, list):
        items = schema.get("items", {})
        return len(value) >= schema.get("minItems", 0) and all(accepts(items, item, root) for item in value)
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    return True


TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def suite_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(invoke("schema", "suite").output)
    return schema


def references(schema: object) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*(references(value) for value in schema.values()))
    return set().union(*(references(value) for value in schema)) if isinstance(schema, list) else set()


def test_the_schema_is_closed_and_complete() -> None:
    schema = suite_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= set(schema["$defs"])
    assert schema["additionalProperties"] is False
    for kind in ("attacks", "defenses", "quantizers", "models"):
        names = schema["properties"][kind]["items"]["anyOf"][0]["enum"]
        assert names == list(REGISTRIES[kind].entries)


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_the_schema_accepts_the_committed_suites(path: Path) -> None:
    schema = suite_schema()
    assert accepts(schema, yaml.safe_load((ROOT / path).read_text()), schema)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("suite: small", "suit: small"),
        ("name: lavan, size: 4", "name: lavan, size: 4, stpes: 3"),
        ("name: lavan, size: 4", "name: lavan"),
        ("name: lavan, size: 4", "name: lavn, size: 4"),
        ("models: [resnet20]", "models: [resnt20]"),
        ("models: [resnet20]", "models: []"),
        ("models: [resnet20]", "models: resnet20"),
        ("bits: [32, 4]", "bits: [32, four]"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(old: str, new: str) -> None:
    schema = suite_schema()
    assert accepts(schema, yaml.safe_load(SUITE), schema)
    assert not accepts(schema, yaml.safe_load(SUITE.replace(old, new)), schema)


def test_the_schema_of_records_names_every_field() -> None:
    from qpatchbench.runs.records import CellRecord

    assert set(json.loads(invoke("schema", "record").output)["properties"]) == set(CellRecord.model_fields)
