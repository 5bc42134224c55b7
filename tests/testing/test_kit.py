"""How checks are chosen, run and reported; expected failures are strict."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import Field

from qpatchbench.attacks.controls import Grey
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.component import Component
from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.defenses.none import NoDefense
from qpatchbench.errors import PluginError
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.registry import REGISTRIES
from qpatchbench.testing import DoesNotApplyError, Result, checks_for, parametrize_with_checks, run_checks, trial
from qpatchbench.testing.require import no_global_draws
from qpatchbench.types import Bits, Losses


def test_the_base_class_decides_the_checks_and_not_the_name() -> None:
    attack = checks_for(Grey(name="triqdef", size=3))
    names = [check.name for check in attack]
    assert "the_patch_is_well_formed" in names
    assert names[:2] == ["fields_are_frozen", "unknown_fields_are_refused"]
    assert not {check.name for check in checks_for(NoDefense(name="grey"))} & {"the_patch_is_well_formed"}
    for registry in REGISTRIES.values():
        for name in registry.entries:
            if "<" not in name:
                assert len(checks_for(trial(registry.get(name), name))) >= 10


def test_every_check_says_what_must_hold_in_a_sentence() -> None:
    for registry in REGISTRIES.values():
        name = next(name for name in registry.entries if "<" not in name)
        for check in checks_for(trial(registry.get(name), name)):
            assert check.summary.endswith("."), check.name
            assert len(check.summary) > 20, check.name


def test_what_is_no_component_of_a_kind_is_refused() -> None:
    with pytest.raises(PluginError, match="Component: expected a class derived from one of .*attacks.base:Attack"):
        checks_for(Component(name="nothing"))


def test_results_tell_passed_failed_expected_and_not_applicable() -> None:
    seen: list[Result] = []
    results = run_checks(Grey(name="grey", size=3), told=seen.append)
    assert tuple(seen) == results
    verdicts = {result.name: result for result in results}
    assert verdicts["the_patch_is_well_formed"].verdict == "passed"
    assert verdicts["another_seed_gives_another_patch"].verdict == "expected"
    assert verdicts["another_seed_gives_another_patch"].message == "it is one constant"
    assert verdicts["queries_are_counted"].verdict == "does not apply"
    assert verdicts["queries_are_counted"].message == "its access is 'none', not 'scores'"
    assert all(result.seconds >= 0 for result in results)


def test_an_expected_failure_that_holds_is_a_failure() -> None:
    results = run_checks(Grey(name="grey", size=3), {"the_seed_decides": "I thought so", "queries_are_counted": "so"})
    verdicts = {result.name: result for result in results}
    assert verdicts["the_seed_decides"].verdict == "failed"
    message = "expected a failure (I thought so); found that it holds; strike it out of expected_failures"
    assert verdicts["the_seed_decides"].message == message
    assert verdicts["queries_are_counted"].verdict == "failed"
    assert "found that it does not apply: its access is 'none'" in verdicts["queries_are_counted"].message


def test_a_misspelt_expected_failure_is_named() -> None:
    message = "'grey': expected_failures names no check: 'the_seed_decide'. Did you mean: the_seed_decides"
    with pytest.raises(PluginError, match=message):
        run_checks(Grey(name="grey", size=3), {"the_seed_decide": "no such check"})
    with pytest.raises(PluginError, match=message):
        parametrize_with_checks([Grey(name="grey", size=3)], expected_failures={"the_seed_decide": "no such check"})


def test_pytest_runs_every_pair_strictly(pytester_folder: Path) -> None:
    (pytester_folder / "test_mine.py").write_text(
        """
from qpatchbench.attacks.controls import Grey
from qpatchbench.testing import parametrize_with_checks

@parametrize_with_checks([Grey(name="mine", size=3)], expected_failures={"the_seed_decides": "wrong"})
def test_conformance(component, check):
    check(component)
"""
    )
    reports = Reports()
    pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(pytester_folder), str(pytester_folder)], [reports])
    assert reports.outcomes["mine-the_patch_is_well_formed"] == "passed"
    assert reports.outcomes["mine-another_seed_gives_another_patch"] == "skipped"  # an expected failure
    assert reports.outcomes["mine-the_seed_decides"] == "failed"  # it holds
    assert reports.outcomes["mine-queries_are_counted"] == "passed"  # does not apply


@pytest.fixture
def pytester_folder(tmp_path: Path) -> Path:
    """A folder without this repository's configuration."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


class Reports:
    """A pytest plugin that keeps the outcome of every test by its id."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.outcomes[report.nodeid.partition("[")[2].removesuffix("]")] = report.outcome


class Raises(Defense):
    """Fails in a way that nobody foresaw."""

    name: str = "raises"

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        raise KeyError("weights")


def test_an_unforeseen_error_is_a_failure_with_its_line() -> None:
    results = {result.name: result for result in run_checks(Raises())}
    assert results["the_loss_is_finite_and_learnable"].verdict == "failed"
    message = results["the_loss_is_finite_and_learnable"].message
    assert message.startswith("'raises' raised KeyError: 'weights' (")
    assert "test_kit.py:" in message
    assert results["fields_are_frozen"].verdict == "passed"


def test_calling_a_check_that_does_not_apply_is_quiet() -> None:
    check = next(c for c in checks_for(Grey(name="grey", size=3)) if c.name == "queries_are_counted")
    check(Grey(name="grey", size=3))
    with pytest.raises(DoesNotApplyError, match="not 'scores'"):
        check.report(Grey(name="grey", size=3))


def test_trials_are_small_and_know_required_fields() -> None:
    lavan = trial(Lavan, "lavan")
    assert (lavan.steps, lavan.batch_size, lavan.size.pixels) == (3, 8, 4)
    assert trial(Ptq, "ptq").bits == tuple(map(Bits.parse, (32, 8, 4, 2)))


class Needy(Quantizer):
    """Has a field that nobody can guess."""

    secret: str = Field(description="what only its author knows")

    def deploy(self, checkpoint: object, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        raise NotImplementedError


class Helpful(Needy):
    """Says what its field may be."""

    trial: ClassVar[dict[str, object]] = {"secret": "now you know"}


def test_a_required_field_is_asked_for_by_name() -> None:
    with pytest.raises(PluginError, match="quantizer 'needy': expected .* trial = {field: value} .* found secret: "):
        trial(Needy, "needy")
    assert trial(Helpful, "helpful").secret == "now you know"


@pytest.mark.parametrize(("draw", "whose"), [("torch.rand(1)", "torch's"), ("numpy.random.rand()", "numpy's")])
def test_global_draws_are_seen(draw: str, whose: str) -> None:
    import numpy

    with (
        torch.random.fork_rng(devices=[]),
        pytest.raises(PluginError, match=f"expected {whose} global generator untouched; elsewhere"),
        no_global_draws(NoDefense(name="none"), "elsewhere"),
    ):
        eval(draw, {"torch": torch, "numpy": numpy})
