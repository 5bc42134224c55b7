"""Files that are read whole: regular ones, and no larger than their kind can be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qpatchbench.errors import ArtifactError
from qpatchbench.origin import THIS_PROCESS

MEGABYTE = 1_000_000
MOST_BYTES_OF_TABLES = 100 * MEGABYTE  # of text; the largest committed leaderboard has 2
MOST_BYTES_OF_ARRAYS = 4_000 * MEGABYTE  # of a patch file, of maps or of examples
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_whole(path: Path | str, most: int) -> bytes:
    """The bytes of a regular file, at most `most` of them.

    Nothing is waited for: a pipe that nobody writes to is refused like a device that never ends.

    Raises:
        OSError: the file is missing, no regular file or larger; says which.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        expect_regular(os.fstat(descriptor), most)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:  # it grew meanwhile
        raise OSError(_too_large(most, len(data)))
    return data


def read_table_text(path: Path) -> str:
    """A table of text, as a run writes it.

    Raises:
        ArtifactError: it is no regular file, no UTF-8, or larger than any run writes it.
    """
    try:
        return read_whole(path, MOST_BYTES_OF_TABLES).decode()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: expected a table in UTF-8, found {error}") from None


def expect_modest(path: Path, most: int) -> None:
    """Check a file before a library opens it.

    Raises:
        ArtifactError: it is missing, no regular file, or larger than `most` bytes.
    """
    try:
        expect_regular(path.stat(), most)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from None


def expect_present(path: Path) -> None:
    """Check that a finished run wrote a file.

    Raises:
        ArtifactError: it is missing.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: expected a file of a finished run, found none")


def expect_regular(status: os.stat_result, most: int | None = None) -> None:
    """Check what `os.stat` says of a file before anything of it is read.

    Raises:
        OSError: it is no regular file, or larger than `most` bytes.
    """
    if not stat.S_ISREG(status.st_mode):
        found = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(f"expected a regular file, found {found}")
    if most is not None and status.st_size > most:
        raise OSError(_too_large(most, status.st_size))


def identity_of(status: os.stat_result) -> str:
    """What changes whenever a file's content does, without reading it.

    The time of the last change of the inode (ctime) cannot be set back as that of the content can, and device and inode
    tell apart two files that agree in everything else.
    """
    if not status.st_ino or not status.st_ctime_ns:  # a file system that keeps neither: nothing of it is remembered
        return f"{status.st_size}\t{THIS_PROCESS}"
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)
    return "\t".join(map(str, facts))


def _too_large(most: int, found: int) -> str:
    return f"expected at most {most / MEGABYTE:g} MB, found {found / MEGABYTE:.1f} MB"
