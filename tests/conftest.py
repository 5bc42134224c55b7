"""What all tests share: run folders that are made up, and other seeds, so that a numerical margin can be measured."""

from __future__ import annotations

import gc
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

pytest_plugins = ("tests.report.run_folders",)
STRIDE = 1_000_003  # so that a shifted seed is not the next one, which a test may use as well


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shift-seeds",
        type=int,
        default=0,
        help="seed every generator elsewhere; with -m numerical, whose tests must hold whatever the seed",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # imports make millions of objects and hardly any garbage: looking for it took a third of the time
    if not hasattr(config, "workerinput"):
        _prepare_art()
    shift = config.getoption("--shift-seeds")
    if shift:
        _shift_seeds(shift * STRIDE)


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: never look through it again
    gc.enable()


def _prepare_art() -> None:
    """Adversarial-robustness-toolbox writes a file when it is imported first, and workers that both do so fail."""
    path = Path.home() / ".art" / "config.json"
    with suppress(OSError):
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            written = path.with_name(f"config.{os.getpid()}")
            written.write_text(json.dumps({"ART_DATA_PATH": str(path.parent / "data")}), encoding="utf-8")
            written.replace(path)


def _shift_seeds(by: int) -> None:
    """From here on, in this process: of generators that are seeded, and of torch's global one."""
    seed_global = torch.manual_seed

    class Shifted(torch.Generator):
        """Seeded elsewhere."""

        def manual_seed(self, seed: int) -> torch.Generator:
            """As asked, but moved."""
            return super().manual_seed((seed + by) % 2**63)

    def shifted(seed: int) -> torch.Generator:
        return seed_global((seed + by) % 2**63)

    torch.Generator = Shifted  # type: ignore[misc]  # every test makes its generators anew
    torch.manual_seed = shifted
    torch.random.manual_seed = shifted
