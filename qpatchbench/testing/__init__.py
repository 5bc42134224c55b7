"""The public checks for plugin authors: promises that every component of a kind must keep.

The test of a plugin is four lines::

    @parametrize_with_checks([MyDefense(name="my_defense")])
    def test_conformance(component, check):
        check(component)
"""

from qpatchbench.testing.fixtures.oracles import best_patch, linear_network, margin_gain
from qpatchbench.testing.fixtures.trials import trial
from qpatchbench.testing.kit import ComponentCheck, Result, checks_for, parametrize_with_checks, run_checks
from qpatchbench.testing.require import DoesNotApplyError

__all__ = [
    "ComponentCheck",
    "DoesNotApplyError",
    "Result",
    "best_patch",
    "checks_for",
    "linear_network",
    "margin_gain",
    "parametrize_with_checks",
    "run_checks",
    "trial",
]
