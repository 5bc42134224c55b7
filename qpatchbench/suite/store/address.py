"""Objects at an address that fsspec reads: `s3://bucket/x`, `file:///shared`, `memory://`.

An artifact is two objects there: its arrays, whose name holds their hash, and then the mark that it is finished, which
names that hash. Each is put at once. Who finds no mark, or half of one, finds nothing; and of two that publish the same
job the mark of either names arrays that are there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.runs.files import write_atomically

LISTED = 30.0  # seconds for which a listing of marks is believed at least
_SHARE = 20  # or so many times as long as it took
_HASH_DIGITS = 16


class Objects(NamedTuple):
    """Bytes of the two objects that a finished artifact is."""

    mark: bytes
    arrays: bytes


class Address:
    """Marks and arrays below one address.

    Attributes:
        url: of it.
    """

    def __init__(self, url: str) -> None:
        """Open it.

        Raises:
            QPatchBenchError: fsspec, or what it needs for this kind of address, is not installed.
        """
        self.url = url
        if importlib.util.find_spec("fsspec") is None:
            raise QPatchBenchError(f"{url}: expected fsspec, found none; pip install 'qpatchbench[store]'")
        try:
            self._files, self._root = importlib.import_module("fsspec.core").url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise QPatchBenchError(f"{url}: expected an address that fsspec reads, found: {error}") from None
        self._marks: dict[str, set[str]] = {}
        self._believed: dict[str, float] = {}  # until when

    def has(self, kind: str, key: str) -> bool:
        """Whether there is a mark; those of a kind are listed together, and a listing is believed for some seconds.

        Raises:
            StorageError: the address refuses.
        """
        if time.monotonic() >= self._believed.get(kind, 0.0):
            self._list(kind)
        return key in self._marks[kind]

    def get_mark(self, kind: str, key: str) -> bytes | None:
        """The bytes of a mark; None where there is none.

        Raises:
            StorageError: the address refuses.
        """
        return self._get(self._mark(kind, key))

    def get_arrays(self, kind: str, key: str, sha256: str) -> bytes | None:
        """The bytes of the arrays with a hash; None where there are none.

        Raises:
            StorageError: the address refuses.
        """
        return self._get(self._arrays(kind, key, sha256))

    def put(self, kind: str, key: str, sha256: str, found: Objects, *, replace: bool) -> bool:
        """Publish an artifact: arrays first, then the mark.

        Args:
            kind: of the artifact.
            key: of the artifact.
            sha256: of the arrays.
            found: its bytes.
            replace: whether a mark that is there is none that counts.

        Returns:
            Whether it was published; False where another has put a mark meanwhile, as far as the address can tell.

        Raises:
            StorageError: the address refuses.
        """
        self._put(self._arrays(kind, key, sha256), found.arrays)
        mark = self._mark(kind, key)
        if replace:
            self._put(mark, found.mark)
        elif not self._created(mark, found.mark):
            return False
        self._marks.setdefault(kind, set()).add(key)
        return True

    def remove(self, kind: str, key: str) -> None:
        """Forget an artifact, if it is there; the mark goes first.

        Raises:
            StorageError: the address refuses.
        """
        self._marks.get(kind, set()).discard(key)
        with self._refusals(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._mark(kind, key))
        with self._refusals(), contextlib.suppress(FileNotFoundError):
            for path in self._files.glob(f"{self._stem(kind, key)}.*.safetensors"):
                self._files.rm_file(path)

    def _list(self, kind: str) -> None:
        found, started = list[str](), time.monotonic()
        with self._refusals(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._files.invalidate_cache()
            found = self._files.find(f"{self._root}/{kind}")
        names = (path.rpartition("/")[2] for path in found)
        self._marks[kind] = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        now = time.monotonic()
        self._believed[kind] = now + max(LISTED, _SHARE * (now - started))

    def _get(self, path: str) -> bytes | None:
        with self._refusals(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return bytes(self._files.cat_file(path))
        return None

    def _put(self, path: str, data: bytes) -> None:
        if self._is_local:
            write_atomically(Path(path), data)
            return
        with self._refusals():
            self._files.pipe_file(path, data)

    def _created(self, path: str, data: bytes) -> bool:
        """Put an object unless there is one. An address that cannot tell replaces it."""
        try:
            if self._is_local:
                temporary = write_atomically(Path(f"{path}.{uuid.uuid4().hex}"), data)
                try:
                    os.link(temporary, path)
                finally:
                    temporary.unlink()
            else:
                self._created_there(path, data)
        except (FileExistsError, StorageError) as error:
            if isinstance(error, FileExistsError) or isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def _created_there(self, path: str, data: bytes) -> None:
        with self._refusals():
            try:
                self._files.pipe_file(path, data, mode="create")
            except (TypeError, NotImplementedError):  # of a library that knows no such mode
                self._files.pipe_file(path, data)

    @property
    def _is_local(self) -> bool:
        """Whether objects are files of this machine, which are not written at once unless they are renamed."""
        kinds: Any = self._files.protocol
        return "file" in ((kinds,) if isinstance(kinds, str) else kinds)

    def _stem(self, kind: str, key: str) -> str:
        return f"{self._root}/{kind}/{key[:2]}/{key}"

    def _mark(self, kind: str, key: str) -> str:
        return f"{self._stem(kind, key)}.json"

    def _arrays(self, kind: str, key: str, sha256: str) -> str:
        return f"{self._stem(kind, key)}.{sha256[:_HASH_DIGITS]}.safetensors"

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Whatever a library raises at a network, as one clear error; what is not there stays what it is."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:
            raise StorageError(
                f"{self.url}: the address refuses: {type(error).__name__}: {error}. Everything finished before is "
                "kept; run the same command again"
            ) from error
