"""Every kind of file of a cache and of a run folder, damaged in four ways: the next run ends with the same results."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.serial import Tiny


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def exchanged(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


WAYS: tuple[Callable[[Path, Path], None], ...] = (truncated, flipped, emptied, exchanged)


def victims(tiny: Tiny) -> Iterator[tuple[Path, Path]]:
    """One file of each kind, and another one of that kind or, where it is the only one, of any."""
    folders = sorted({path.parent.parent for path in tiny.cache.glob("*/*/*") if path.is_file()})
    for folder in folders:
        for suffix in sorted({path.suffix for path in folder.glob("*/*")}):
            files = sorted(path for path in folder.glob(f"*/*{suffix}") if path.is_file())
            if not files:
                continue
            yield files[0], files[-1] if len(files) > 1 else next(tiny.output.glob("*.csv"))
    written = sorted(path for path in tiny.output.rglob("*") if path.is_file())
    first = {kind(path.relative_to(tiny.output)): path for path in reversed(written)}
    for path in sorted(first.values()):
        yield path, next(other for other in written if other != path)


def kind(path: Path) -> tuple[str, str, str]:
    """Patches are of one kind, and so are the pictures that begin with one word."""
    return str(path.parent), "" if path.parent.name == "patches" else path.stem.partition("_")[0], path.suffix


def trials() -> Iterator[tuple[str, bool]]:
    """(what was damaged and how, whether it held)."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Tiny(Path(temporary) / "whole")
        whole.root.mkdir()
        assert whole.run() == ""
        expected = whole.results()
        for number, (path, _) in enumerate(victims(whole)):
            for way in WAYS:
                place = whole.copied(Path(temporary) / "again")
                victim, other = list(victims(place))[number]
                way(victim, other)
                error = place.run()
                name = path.relative_to(whole.root)
                yield f"{name} {way.__name__}{f': {error}' * bool(error)}", not error and place.results() == expected
                shutil.rmtree(place.root)
