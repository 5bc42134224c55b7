"""What a plan must know of images and weights: their hashes, taken from caches where those hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qpatchbench.data.source import cached_fingerprints
from qpatchbench.models.weights import weights_fingerprint
from qpatchbench.suite.decoding import decoding_for
from qpatchbench.suite.plan import DataKeys
from qpatchbench.suite.schema import Suite

if TYPE_CHECKING:
    from qpatchbench.suite.work import Workbench


def weights_keys(suite: Suite) -> dict[str, str]:
    """Model title -> hash of the weights it starts from.

    Raises:
        WeightsError: a weights file is not there.
    """
    return {model.title: weights_fingerprint(model.weights) for model in suite.models}


def remembered_data_keys(suite: Suite, data_dir: Path, cache_dir: Path) -> dict[str, DataKeys] | None:
    """Model title -> hashes of the four parts, if the image cache knows them all; reads no image."""
    keys = {}
    for model in suite.models:
        found = cached_fingerprints(
            suite.dataset, data_dir, cache_dir, decoding_for(model, suite.dataset.side), suite.evaluation.images
        )
        if found is None:
            return None
        keys[model.title] = DataKeys(**found)
    return keys


def unread_data_keys(suite: Suite) -> dict[str, DataKeys]:
    """Stand-ins for a plan that is only shown; no stored result matches them."""
    return {model.title: DataKeys("unread", "unread", "unread", "unread") for model in suite.models}


def loaded_data_keys(bench: Workbench) -> dict[str, DataKeys]:
    """Model title -> hashes of the four parts, decoding images where that was never done.

    Raises:
        DataError: the dataset is not there.
    """
    keys = {}
    for model in bench.suite.models:
        found: Mapping[str, str] = bench.splits(model).fingerprints
        keys[model.title] = DataKeys(**found)
    return keys
