"""A store whose finished artifacts are published at an address, and fetched from there when they are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.files import write_atomically
from qpatchbench.suite.store.address import Address, Objects
from qpatchbench.suite.store.store import Artifact, Store

OF_THIS_MACHINE = ("snapshot",)  # kinds that are not finished, and rewritten often


class PublishedStore(Store):
    """A folder, and an address that several machines share.

    Two machines may do the same job, because nothing is locked there. The first that has published it wins, and the
    other takes over what it finds, so that both go on from the same bytes.
    """

    def __init__(self, root: Path, address: Address) -> None:
        super().__init__(root)
        self._remote = address

    @property
    def address(self) -> str | None:
        """Where artifacts are published."""
        return self._remote.url

    def has(self, kind: str, key: str) -> bool:
        """Whether a finished artifact is here or at the address; its bytes are checked when it is read."""
        return super().has(kind, key) or (kind not in OF_THIS_MACHINE and self._remote.has(kind, key))

    def read(self, kind: str, key: str) -> Artifact:
        """Read and verify an artifact; one that is not here, or damaged here, is fetched.

        Raises:
            ArtifactError: it is missing, or its bytes are not those that were written.
        """
        if kind in OF_THIS_MACHINE:
            return super().read(kind, key)
        fresh = self._fetch(kind, key)
        try:
            return super().read(kind, key)
        except ArtifactError:
            if fresh or not self._remote.has(kind, key):
                raise
        super().remove(kind, key)
        self._fetch(kind, key)
        return super().read(kind, key)

    def facts(self, kind: str, key: str) -> Mapping[str, Any]:
        """The facts alone; empty if there is no such artifact, or they are damaged."""
        self._fetch_or_leave(kind, key)
        return super().facts(kind, key)

    def digest(self, kind: str, key: str) -> str:
        """SHA-256 of the arrays' file as it was written; empty if there is no such artifact."""
        self._fetch_or_leave(kind, key)
        return super().digest(kind, key)

    def write(self, kind: str, key: str, artifact: Artifact) -> None:
        """Write an artifact here and publish it; where another has published it before, that one is taken over.

        Raises:
            StorageError: the disk or the address refuses; earlier artifacts are untouched.
        """
        super().write(kind, key, artifact)
        if kind in OF_THIS_MACHINE:
            return
        arrays = self._path(kind, key, ".safetensors").read_bytes()
        found = Objects(self._path(kind, key, ".json").read_bytes(), arrays)
        sha256, mark = hashlib.sha256(arrays).hexdigest(), self._remote.get_mark(kind, key)
        if mark is not None and not self._is_whole(kind, key, mark):
            self._remote.put(kind, key, sha256, found, replace=True)
        elif mark is not None or not self._remote.put(kind, key, sha256, found, replace=False):
            super().remove(kind, key)
            self._fetch(kind, key)

    def remove(self, kind: str, key: str) -> None:
        """Forget an artifact, here and at the address.

        Raises:
            StorageError: the disk or the address refuses.
        """
        super().remove(kind, key)
        if kind not in OF_THIS_MACHINE:
            self._remote.remove(kind, key)

    def _is_whole(self, kind: str, key: str, mark: bytes) -> bool:
        """Whether what a mark names is at the address."""
        sha256 = _hash_in(mark, kind, key)
        arrays = None if sha256 is None else self._remote.get_arrays(kind, key, sha256)
        return arrays is not None and hashlib.sha256(arrays).hexdigest() == sha256

    def _fetch(self, kind: str, key: str) -> bool:
        """Bring an artifact here, if it is not; whether that was done.

        Raises:
            ArtifactError: what the address has is damaged.
        """
        if super().has(kind, key):
            return False
        mark = self._remote.get_mark(kind, key)
        sha256 = None if mark is None else _hash_in(mark, kind, key)
        if mark is None or sha256 is None:
            return False
        arrays = self._remote.get_arrays(kind, key, sha256)
        found = None if arrays is None else hashlib.sha256(arrays).hexdigest()
        if arrays is None or found != sha256:
            raise ArtifactError(
                f"{self._remote.url}: damaged {kind} artifact {key}: expected arrays with SHA-256 {sha256}, found "
                f"{found or 'none'}"
            )
        write_atomically(self._path(kind, key, ".safetensors"), arrays)
        write_atomically(self._path(kind, key, ".json"), mark)
        return True

    def _fetch_or_leave(self, kind: str, key: str) -> None:
        if kind in OF_THIS_MACHINE:
            return
        try:
            self._fetch(kind, key)
        except ArtifactError:
            return  # who reads it is told


def _hash_in(mark: bytes, kind: str, key: str) -> str | None:
    """The hash of the arrays that a mark names; None where it is half of one, or another's."""
    try:
        found = json.loads(mark)
    except ValueError:
        return None
    if not isinstance(found, dict) or (found.get("kind"), found.get("key")) != (kind, key):
        return None
    sha256 = found.get("sha256")
    return sha256 if isinstance(sha256, str) else None


def opened_store(folder: Path, address: str | None = None) -> Store:
    """The store in a folder, published at an address where there is one.

    Raises:
        QPatchBenchError: fsspec, or what it needs for this kind of address, is not installed.
    """
    return Store(folder) if address is None else PublishedStore(folder, Address(address))
