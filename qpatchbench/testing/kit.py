"""Checks of one component: which there are for its kind, how pytest and the command line run them."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qpatchbench.component import Component
from qpatchbench.errors import PluginError, suggestion
from qpatchbench.testing.require import DoesNotApplyError, kind_of

if TYPE_CHECKING:
    import pytest

Verdict: TypeAlias = Literal["passed", "failed", "expected", "does not apply"]

ALL_KINDS = "qpatchbench.testing.checks.components"
MODULES = {
    "attack": "qpatchbench.testing.checks.attacks",
    "defense": "qpatchbench.testing.checks.defenses",
    "quantizer": "qpatchbench.testing.checks.quantizers",
    "preprocessor": "qpatchbench.testing.checks.preprocessors",
    "model": "qpatchbench.testing.checks.models",
    "dataset": "qpatchbench.testing.checks.datasets",
}


@dataclass(frozen=True)
class ComponentCheck:
    """One invariant. Calling it with a component raises `PluginError` where the invariant does not hold.

    Attributes:
        name: of the function that checks it.
        body: component, seed -> what is worth reporting, or None.
        seed: of weights, images and draws.
    """

    name: str
    body: Callable[[Any, int], str | None]
    seed: int = 0

    def __call__(self, component: Component) -> None:
        """Check; a component that the invariant does not apply to keeps it.

        Raises:
            PluginError: what was expected, what was found and what to do.
        """
        try:
            self.report(component)
        except DoesNotApplyError:
            return

    def report(self, component: Component) -> str:
        """Check, and say what is worth reporting.

        Raises:
            PluginError: the invariant does not hold.
            DoesNotApplyError: it does not apply; says why.
        """
        return self.body(component, self.seed) or ""

    @property
    def summary(self) -> str:
        """What must hold, in a sentence."""
        return (self.body.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        name: of the check.
        verdict: passed; failed; expected, a failure that was announced with a reason; or does not apply.
        message: what was expected and found, the reason, or what is worth reporting.
        seconds: wall time.
    """

    name: str
    verdict: Verdict
    message: str
    seconds: float


def checks_for(component: Component, *, seed: int = 0) -> tuple[ComponentCheck, ...]:
    """The checks of a component's kind, which its base class decides.

    Raises:
        PluginError: it derives from no kind's base class.
    """
    modules = (ALL_KINDS, MODULES[kind_of(type(component))])
    bodies = [body for module in modules for body in importlib.import_module(module).CHECKS]
    return tuple(ComponentCheck(body.__name__, body, seed) for body in bodies)


def parametrize_with_checks(
    components: Sequence[Component], expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """A pytest decorator: a test function with the arguments `component` and `check` runs once for every pair.

    Args:
        components: what to check, as small as is sensible: few steps, small patches.
        expected_failures: names of checks that cannot hold, and why, beside those that the classes carry. One that
            holds after all is an error.

    Raises:
        PluginError: an expected failure is the name of no check.
    """
    import pytest

    cases, names = [], set()
    for component in components:
        expected = {**component.expected_failures, **(expected_failures or {})}
        for check in checks_for(component):
            names.add(check.name)
            marks = []
            if check.name in expected:
                marks = [pytest.mark.xfail(reason=expected[check.name], strict=True, raises=PluginError)]
            cases.append(pytest.param(component, check, id=f"{component.title}-{check.name}", marks=marks))
    for component in components:
        _require_known(component.title, {**component.expected_failures, **(expected_failures or {})}, names)
    return pytest.mark.parametrize(("component", "check"), cases)


def run_checks(
    component: Component,
    expected_failures: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
    told: Callable[[Result], None] | None = None,
) -> tuple[Result, ...]:
    """Run every check of a component, whatever the ones before found.

    Args:
        component: what to check.
        expected_failures: as in `parametrize_with_checks`.
        seed: of weights, images and draws.
        told: called with every result as it comes.

    Raises:
        PluginError: an expected failure is the name of no check.
    """
    checks = checks_for(component, seed=seed)
    expected = {**component.expected_failures, **(expected_failures or {})}
    _require_known(component.title, expected, {check.name for check in checks})
    results = []
    for check in checks:
        started = time.monotonic()
        verdict, message = _verdict(check, component, expected.get(check.name))
        results.append(Result(check.name, verdict, message, time.monotonic() - started))
        if told is not None:
            told(results[-1])
    return tuple(results)


def _verdict(check: ComponentCheck, component: Component, reason: str | None) -> tuple[Verdict, str]:
    strike = "strike it out of expected_failures"
    try:
        note = check.report(component)
    except DoesNotApplyError as why:
        if reason is not None:
            return "failed", f"expected a failure ({reason}); found that it does not apply: {why}; {strike}"
        return "does not apply", str(why)
    except PluginError as error:
        return ("failed", str(error)) if reason is None else ("expected", reason)
    except Exception as error:  # a component may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        return "failed", f"{component.title!r} raised {type(error).__name__}: {error} ({where})"
    if reason is not None:
        return "failed", f"expected a failure ({reason}); found that it holds; {strike}"
    return "passed", note


def _require_known(title: str, expected: Mapping[str, str], names: set[str]) -> None:
    for name in expected:
        if name not in names:
            raise PluginError(f"{title!r}: expected_failures names no check: {name!r}.{suggestion(name, names)}")
