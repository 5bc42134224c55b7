"""Hashes of images and weights for a plan, taken from caches where those hold them."""

from __future__ import annotations

import json
from pathlib import Path

from qpatchbench.data.source import cached_fingerprints
from qpatchbench.errors import SuiteError, WeightsError
from qpatchbench.models.base import ModelSource
from qpatchbench.models.weights import PRETRAINED
from qpatchbench.runs.files import write_atomically
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.jobs.decoding import decoding_for
from qpatchbench.suite.store.store import key_of

UNREAD = "unread"


def weights_keys(suite: Suite, source: Source, cache_dir: Path | None = None, *, fetch: bool = False) -> dict[str, str]:
    """Model title -> what identifies the weights it starts from: their content, and for published ones also their name.

    Args:
        suite: a coherent suite.
        source: tells errors where they stand.
        cache_dir: where the hashes of published weights are remembered.
        fetch: whether to read published weights, downloading them where they are not at hand. Otherwise those that were
            never read end in `UNREAD`, and no stored result matches them.

    Raises:
        SuiteError: weights are not there; says which line asks for them.
    """
    keys = {}
    for index, model in enumerate(suite.models):
        try:
            keys[model.title] = weights_key(model, suite.dataset.num_classes, cache_dir, fetch=fetch)
        except WeightsError as error:
            raise SuiteError(
                [f"{source.where(('models', index, 'file' if model.ready else 'weights'))}: {error}"]
            ) from None
    return keys


def weights_key(model: ModelSource, num_classes: int, cache_dir: Path | None = None, *, fetch: bool = False) -> str:
    """What identifies the weights that one model starts from; see `weights_keys`.

    Raises:
        WeightsError: they are not there.
    """
    if model.weights == PRETRAINED:
        return _published(model, num_classes, cache_dir, fetch=fetch)
    return model.fingerprint()


def _published(model: ModelSource, num_classes: int, cache_dir: Path | None, *, fetch: bool) -> str:
    """Name and hash of published weights. The hash is taken whenever they are fetched: a name can be given again."""
    release = model.pretrained_release()
    digest = None
    record = None if cache_dir is None else cache_dir / "published" / f"{key_of({'release': release})}.json"
    if fetch:
        from qpatchbench.models.weights import tensors_fingerprint

        digest = tensors_fingerprint(model.pretrained_tensors(num_classes))
        if record is not None:
            write_atomically(record, json.dumps({"release": release, "sha256": digest}).encode())
    elif record is not None:
        try:
            digest = json.loads(record.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            digest = None
    return f"{release} sha256:{digest or UNREAD}"


def remembered_data_keys(suite: Suite, data_dir: Path, cache_dir: Path) -> dict[str, DataKeys] | None:
    """Model title -> hashes of the four parts, if the image cache knows them all; reads no image."""
    keys = {}
    for model in suite.models:
        found = cached_fingerprints(
            suite.dataset, data_dir, cache_dir, decoding_for(model, suite), suite.evaluation.images
        )
        if found is None:
            return None
        keys[model.title] = DataKeys(**found)
    return keys


def unread_data_keys(suite: Suite) -> dict[str, DataKeys]:
    """Stand-ins for a plan that is only shown; no stored result matches them."""
    return {model.title: DataKeys(UNREAD, UNREAD, UNREAD, UNREAD) for model in suite.models}
