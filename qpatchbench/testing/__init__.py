"""What plugin authors import: checks that every component of a kind must pass, and oracles with known answers.

The test of a plugin is four lines::

    @parametrize_with_checks([MyDefense(name="my_defense")])
    def test_conformance(component, check):
        check(component)
"""

from qpatchbench.testing.fixtures.trials import trial
from qpatchbench.testing.kit import Check, Result, checks_for, parametrize_with_checks, run_checks
from qpatchbench.testing.require import DoesNotApplyError

__all__ = ["Check", "DoesNotApplyError", "Result", "checks_for", "parametrize_with_checks", "run_checks", "trial"]
