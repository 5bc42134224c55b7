"""Report files: complete or absent, and the same bytes for the same input."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from qpatchbench.errors import StorageError


def write_file(path: Path, data: bytes) -> Path:
    """Write through a temporary file and rename; returns `path`.

    Raises:
        StorageError: the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private; give the usual permissions back
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path
