"""No false alarm: every built-in keeps every invariant of its kind. Attacks are in tests/attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.component import Component
from qpatchbench.registry import REGISTRIES
from qpatchbench.testing import ComponentCheck, parametrize_with_checks, run_checks, trial

# One architecture of each family: the larger ones take half a minute, and `plugin check qpatchbench` runs them all.
SMALL_MODELS = ("alexnet", "resnet20", "resnet18")


def built_ins(*kinds: str) -> list[Component]:
    return [trial(REGISTRIES[kind].get(name), name) for kind in kinds for name in REGISTRIES[kind].entries]


@parametrize_with_checks(built_ins("defenses"))
def test_defenses(component: Component, check: ComponentCheck) -> None:
    check(component)


@parametrize_with_checks(built_ins("quantizers"))
def test_quantizers(component: Component, check: ComponentCheck) -> None:
    check(component)


@parametrize_with_checks(built_ins("preprocessors"))
def test_preprocessors(component: Component, check: ComponentCheck) -> None:
    check(component)


@parametrize_with_checks([trial(REGISTRIES["models"].get(name), name) for name in SMALL_MODELS])
def test_models(component: Component, check: ComponentCheck) -> None:
    check(component)


@parametrize_with_checks(built_ins("datasets"))
def test_datasets(component: Component, check: ComponentCheck) -> None:
    check(component)


@pytest.mark.parametrize("kind", ["defenses", "quantizers"])
def test_another_seed_raises_no_alarm(kind: str) -> None:
    for component in built_ins(kind)[::6]:
        wrong = [result for result in run_checks(component, seed=1) if result.verdict == "failed"]
        assert wrong == []


def test_files_that_are_not_there_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPATCHBENCH_DATA", str(tmp_path))
    results = {result.name: result for result in run_checks(trial(REGISTRIES["datasets"].get("cifar10"), "cifar10"))}
    for name in ("images_are_well_formed", "parts_are_disjoint", "classes_are_balanced", "it_loads_the_same_twice"):
        assert results[name].verdict == "does not apply"
        assert results[name].message == f"files not found at {tmp_path}"
    assert results["missing_files_are_named"].verdict == "passed"
