"""Limits of a stranger's manifest: it makes this machine predict again on images known here, and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpatchbench.errors import QPatchBenchError
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.plan.fingerprints import UNREAD, remembered_data_keys
from qpatchbench.suite.store.store import KEY_DIGITS

MOST_CELLS = 1_000_000  # a hundred times those of the largest committed suite


class Unavailable(QPatchBenchError):
    """Checkpoints or images, or a component, that predicting again needs and that are not at hand."""


def is_key(key: object) -> bool:
    """Whether a manifest names an artifact, and not a path that leads elsewhere."""
    return isinstance(key, str) and re.fullmatch(rf"[0-9a-f]{{{KEY_DIGITS}}}", key) is not None


def expect_modest_suite(resolved: Mapping[str, Any]) -> None:
    """Refuse a suite whose lists multiply to more cells than any run has, before they are multiplied.

    Raises:
        Unavailable: it would have more than `MOST_CELLS`.
    """
    lists = ("seeds", "models", "defenses", "quantizers", "preprocessors", "attacks")
    cells = math.prod(max(1, len(found)) for name in lists if isinstance(found := resolved.get(name), list))
    quantizers = resolved.get("quantizers")
    each_of = [each for each in quantizers if isinstance(each, dict)] if isinstance(quantizers, list) else []
    bits = [each["bits"] for each in each_of if isinstance(each.get("bits"), list)]
    cells *= max((len(each) for each in bits), default=1) ** 2  # those of the source, and those of the target
    if cells > MOST_CELLS:
        raise Unavailable(f"the manifest's suite asks for about {cells:,} cells, expected at most {MOST_CELLS:,}")


def harmless(suite: Suite, data_dir: Path, cache_dir: Path, *, decode: bool, run_code: bool) -> Suite:
    """The suite, of which nothing is downloaded or run, nothing outside of the data folder read, nothing new decoded.

    Args:
        suite: of a manifest.
        data_dir: where datasets lie.
        cache_dir: where decoded images are kept.
        decode: whether the person at the keyboard allows to decode images that were never decoded here.
        run_code: whether that person allows to run the source files that it names.

    Raises:
        Unavailable: it asks for more than that.
    """
    dataset = suite.dataset
    path = getattr(dataset, "path", None)
    if isinstance(path, str) and not (data_dir / path).resolve().is_relative_to(data_dir.resolve()):
        raise Unavailable(
            f"the manifest's images lie in {path}, outside of the data folder {data_dir}: say with --data-dir that "
            "they may be read"
        )
    code = [model.title for model in suite.models if model.runs_code or (model.ready is not None and model.ready.code)]
    if code and not run_code:
        raise Unavailable(
            f"the manifest's model {code[0]} is code, which is not run because a manifest names it: allow it with "
            "--run-code, of a run that you trust"
        )
    if "download" in type(dataset).model_fields:
        suite = suite.model_copy(update={"dataset": dataset.model_copy(update={"download": False})})
    if not decode and remembered_data_keys(suite, data_dir, cache_dir) is None:
        raise Unavailable(
            f"the images that the manifest asks for, {suite.dataset.title} in {data_dir} split as it says, were never "
            f"read into {cache_dir}: allow it with --decode"
        )
    return suite


def expect_known(weights: dict[str, str]) -> None:
    """Published weights are not fetched because a manifest says so.

    Raises:
        Unavailable: some were never read here.
    """
    unread = [title for title, key in weights.items() if key.endswith(UNREAD)]
    if unread:
        raise Unavailable(f"the published weights of {', '.join(unread)} were never read here, and are not fetched")
