"""qpatchbench: how adversarial patches transfer across the bit-widths of quantized vision models.

The names below are the Python interface; each is imported when it is first used, so that `import qpatchbench` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qpatchbench.api.finished_run import FinishedRun as Run
    from qpatchbench.api.finished_run import leaderboard
    from qpatchbench.api.measurement import Measurement
    from qpatchbench.api.single_steps import craft, measure, quantize, transfer
    from qpatchbench.api.suite_runs import load_suite, plan, run
    from qpatchbench.models.classifier import ImageClassifier

__version__ = "0.1.0"

_PLACES = {
    "ImageClassifier": "qpatchbench.models.classifier:ImageClassifier",
    "Measurement": "qpatchbench.api.measurement:Measurement",
    "Run": "qpatchbench.api.finished_run:FinishedRun",
    "craft": "qpatchbench.api.single_steps:craft",
    "leaderboard": "qpatchbench.api.finished_run:leaderboard",
    "load_suite": "qpatchbench.api.suite_runs:load_suite",
    "measure": "qpatchbench.api.single_steps:measure",
    "plan": "qpatchbench.api.suite_runs:plan",
    "quantize": "qpatchbench.api.single_steps:quantize",
    "run": "qpatchbench.api.suite_runs:run",
    "transfer": "qpatchbench.api.single_steps:transfer",
}
__all__ = [
    "ImageClassifier",
    "Measurement",
    "Run",
    "__version__",
    "craft",
    "leaderboard",
    "load_suite",
    "measure",
    "plan",
    "quantize",
    "run",
    "transfer",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any of the names above)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
