"""Hashes of images and weights for a plan, taken from caches where those hold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qpatchbench.data.source import cached_fingerprints
from qpatchbench.errors import SuiteError, WeightsError
from qpatchbench.models.weights import weights_fingerprint
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.jobs.decoding import decoding_for

if TYPE_CHECKING:
    pass


def weights_keys(suite: Suite, source: Source) -> dict[str, str]:
    """Model title -> hash of the weights it starts from.

    Raises:
        SuiteError: a weights file is not there; says which line asks for it.
    """
    keys = {}
    for index, model in enumerate(suite.models):
        try:
            keys[model.title] = weights_fingerprint(model.weights)
        except WeightsError as error:
            raise SuiteError([f"{source.where(('models', index, 'weights'))}: {error}"]) from None
    return keys


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
