"""Errors a user can meet: each says where, what was expected, what was found and the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qpatchbench.labels import shown


class QPatchBenchError(Exception):
    """Base of every error that is the user's to solve; the command line prints it without a traceback.

    Attributes:
        exit_code: what the command line ends with.
    """

    exit_code = 2

    def __str__(self) -> str:
        """The text, of which no terminal gets a control character, whoever wrote the file that it is about."""
        return shown(super().__str__())


class UnknownNameError(QPatchBenchError):
    """A name that no registry, dataset or model knows."""

    def __init__(self, what: str, name: str, choices: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"unknown {what} {name!r}.{suggestion(name, choices)}")


class SuiteError(QPatchBenchError):
    """A suite file that cannot be run; holds every problem found, each with its position."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(map(shown, problems))
        super().__init__("\n".join(self.problems))


class DataError(QPatchBenchError):
    """A dataset that is missing, incomplete or not what its name promises."""


class WeightsError(QPatchBenchError):
    """Weights that are missing, unsafe to read or do not fit the model."""


class ArtifactError(QPatchBenchError):
    """A stored artifact whose bytes are not the ones that were written."""


class PatchFileError(QPatchBenchError):
    """A patch from elsewhere that is missing, unsafe to read or no patch."""


class StorageError(QPatchBenchError):
    """A disk that is full, read-only or otherwise refuses a write; jobs are left undone."""

    exit_code = 1


class OutputError(QPatchBenchError):
    """A folder for results that belongs to somebody else, or that another run is writing."""


class PluginError(QPatchBenchError):
    """A plugin that cannot be imported or does not keep its contract."""


class SharedStateError(QPatchBenchError):
    """A job that changed what other jobs use: a network, images, or the state of the process."""


class TimeLimitError(QPatchBenchError):
    """A job that took longer than it may."""


class TrainingError(QPatchBenchError):
    """A training run that cannot go on, for example because the loss is not finite."""


class AttackError(QPatchBenchError):
    """An attack that produced no usable patch; recorded as an error row, never as robustness."""


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return ' Did you mean ...? Available: ...' for a misspelt name.

    >>> suggestion("lavn", ["gap", "lavan"])
    ' Did you mean: lavan? Available: gap, lavan.'
    """
    available = sorted(choices)
    if not available:
        return " None is available."
    close = difflib.get_close_matches(name, available, n=1, cutoff=0.6)
    hint = f" Did you mean: {close[0]}?" if close else ""
    return f"{hint} Available: {', '.join(available)}."
