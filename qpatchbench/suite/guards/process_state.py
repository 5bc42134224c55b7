"""State of the process that every job shares: random draws, number types, threads, the working folder, the environment.

A job starts with random draws of its own and leaves the process as it found it. What would change the numbers or the
places of later results is told, so that the job that did it becomes an error.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class _Setting:
    """One thing a job may not leave changed: its name in messages, how to read it, how to put it back."""

    name: str
    read: Callable[[], object]
    restore: Callable[..., object]


_SETTINGS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("the number of torch's threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "torch's deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    _Setting(
        "torch's precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    _Setting("the working folder", os.getcwd, os.chdir),
    _Setting("numpy's answer to floating-point errors", np.geterr, lambda kept: np.seterr(**kept)),
)


@dataclass
class StateChanges:
    """What a job changed in the process, filled when it ends: "torch's default dtype, from A to B"."""

    found: list[str] = field(default_factory=list)


@contextmanager
def process_state(seed: int) -> Iterator[StateChanges]:
    """Global random draws start from `seed` inside; everything is put back afterwards, and what had changed is told.

    Random states, new environment variables and the recursion limit, which torch's compiler raises, are put back
    without a word: they are a library's to use.
    """
    changes = StateChanges()
    before = [setting.read() for setting in _SETTINGS]
    environment, depth = dict(os.environ), sys.getrecursionlimit()
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 (a plugin's draws are put back)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield changes
        finally:
            sys.setrecursionlimit(depth)
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002
            changes.found += [*_restored(before), *_restored_environment(environment)]


def _restored(before: list[object]) -> Iterator[str]:
    for setting, kept in zip(_SETTINGS, before, strict=True):
        try:
            found = setting.read()
        except OSError:  # a working folder that was deleted
            found = "none"
        if found != kept:
            setting.restore(kept)
            yield f"{setting.name}, from {kept} to {found}"


def _restored_environment(before: dict[str, str]) -> Iterator[str]:
    changed = [name for name, kept in before.items() if os.environ.get(name) != kept]
    for name in [name for name in os.environ if name not in before]:
        del os.environ[name]
    for name in changed:
        os.environ[name] = before[name]
        yield f"the environment variable {name}"
