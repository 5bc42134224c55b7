"""Content-addressed artifacts on disk: a job's result is there completely, or it is not there.

An artifact is one safetensors file and one JSON file beside it that names the SHA-256 of both. The JSON file is
written last, by rename, so its presence says that the job is finished. Nothing is ever unpickled. Imports no torch:
tensors are numpy arrays here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as serialize_tensors

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.files import storage_errors, write_atomically

KEY_DIGITS = 32


def key_of(facts: Mapping[str, Any]) -> str:
    """Hash of JSON-ready facts, independent of the order of their keys; 32 hex digits."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True)
class Artifact:
    """Arrays by name, and JSON-ready facts about them."""

    arrays: Mapping[str, np.ndarray[Any, Any]]
    facts: Mapping[str, Any]


class Store:
    """Artifacts by kind ("train", "craft", ...) and key, below one folder that suites share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: set[str] = set()

    @property
    def address(self) -> str | None:
        """Where artifacts are published; None: they are in the folder alone."""
        return None

    def has(self, kind: str, key: str) -> bool:
        """Whether a finished artifact is there; its bytes are checked when it is read."""
        return self._path(kind, key, ".json").exists() and self._path(kind, key, ".safetensors").exists()

    def read(self, kind: str, key: str) -> Artifact:
        """Read and verify an artifact.

        Raises:
            ArtifactError: it is missing, or its bytes are not those that were written.
        """
        path = self._path(kind, key, ".safetensors")
        try:
            facts = json.loads(self._path(kind, key, ".json").read_text(encoding="utf-8"))
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path}: expected a finished {kind} artifact, found {type(error).__name__}: {error}"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if not isinstance(facts, dict) or facts.get("sha256") != found:
            expected = facts.get("sha256") if isinstance(facts, dict) else None
            raise ArtifactError(f"{path}: damaged {kind} artifact: expected SHA-256 {expected}, found {found}")
        if (facts.get("kind"), facts.get("key")) != (kind, key):
            raise ArtifactError(
                f"{path.with_suffix('.json')}: damaged {kind} artifact: expected {kind} {key}, found "
                f"{facts.get('kind')} {facts.get('key')}"
            )
        kept = facts.get("facts")
        if not isinstance(kept, dict) or facts.get("facts_sha256") != _hash_of(kept):
            raise ArtifactError(
                f"{path.with_suffix('.json')}: damaged {kind} artifact: its facts are not those that were written"
            )
        try:
            return Artifact(parse_tensors(data), kept)
        except SafetensorError as error:
            raise ArtifactError(f"{path}: damaged {kind} artifact: {error}") from None

    def facts(self, kind: str, key: str) -> Mapping[str, Any]:
        """The facts alone, without reading the arrays; empty if there is no such artifact, or they are damaged."""
        try:
            stored = json.loads(self._path(kind, key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(stored, dict) or (stored.get("kind"), stored.get("key")) != (kind, key):
            return {}
        kept = stored.get("facts")
        return kept if isinstance(kept, dict) and stored.get("facts_sha256") == _hash_of(kept) else {}

    def digest(self, kind: str, key: str) -> str:
        """SHA-256 of the arrays' file as it was written; empty if there is no such artifact."""
        try:
            stored = json.loads(self._path(kind, key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        return str(stored.get("sha256", "")) if isinstance(stored, dict) else ""

    def size(self, kind: str, key: str) -> int:
        """Bytes that an artifact takes; 0 if there is none."""
        try:
            return sum(self._path(kind, key, ending).stat().st_size for ending in (".json", ".safetensors"))
        except OSError:
            return 0

    def write(self, kind: str, key: str, artifact: Artifact) -> None:
        """Write an artifact; when this returns it survives a crash of the process.

        Raises:
            StorageError: the disk refuses; earlier artifacts are untouched.
        """
        arrays = {name: np.asarray(array, order="C") for name, array in artifact.arrays.items()}
        data = serialize_tensors(arrays)
        kept = json.loads(json.dumps(artifact.facts))  # as a reader will find them: lists for tuples, text for keys
        facts = {
            "kind": kind,
            "key": key,
            "sha256": hashlib.sha256(data).hexdigest(),
            "facts_sha256": _hash_of(kept),
            "facts": kept,
        }
        write_atomically(self._path(kind, key, ".safetensors"), data)
        write_atomically(self._path(kind, key, ".json"), json.dumps(facts, sort_keys=True).encode())

    def remove(self, kind: str, key: str) -> None:
        """Forget an artifact, if it is there; the mark that it is finished goes first.

        Raises:
            StorageError: the disk refuses.
        """
        for ending in (".json", ".safetensors"):
            path = self._path(kind, key, ending)
            with storage_errors(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other process is inside with the same name; inside, the same store may enter again.

        Raises:
            StorageError: the file system keeps no locks.
        """
        if name in self._held:
            yield
            return
        path = self.root / "locks" / name
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        with file:
            with storage_errors(path):
                fcntl.flock(file, fcntl.LOCK_EX)
            self._held.add(name)
            try:
                yield
            finally:
                self._held.discard(name)

    def path(self, kind: str, key: str) -> Path:
        """Where an artifact's arrays are, or would be."""
        return self._path(kind, key, ".safetensors")

    def _path(self, kind: str, key: str, ending: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{ending}"


def _hash_of(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
