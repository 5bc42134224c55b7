"""Damaged files of strangers, 200 for each reader: each is read or refused with a reason, never with a traceback."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tests.cli.conftest import SUITE
from tests.faults.serial import Tiny

FILES = 200  # of each reader


def fuzzed(data: bytes, draws: random.Random) -> bytes:
    """Some bytes changed, a piece taken out, doubled, or the end cut off."""
    found = bytearray(data)
    for _ in range(draws.randint(1, 8)):
        found[draws.randrange(len(found))] = draws.randrange(256)
    start, length = draws.randrange(len(found)), draws.randint(1, 64)
    kind = draws.randrange(4)
    if kind == 0:
        del found[start : start + length]
    elif kind == 1:
        found[start:start] = found[start : start + length]
    elif kind == 2:
        del found[start:]
    return bytes(found)


def image(kind: str) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def foreign(tiny: Tiny) -> dict[str, tuple[Path, Callable[[], str]]]:
    """Patches from elsewhere, each in a suite that is validated: what is said of a damaged one."""
    pixels = np.random.default_rng(0).random((3, 4, 4), dtype=np.float32)
    np.save(tiny.root / "patch.npy", pixels)
    np.savez(tiny.root / "patch.npz", patch=pixels, mask=np.eye(4))
    save_file({"patch": pixels}, tiny.root / "tensors.safetensors")
    Image.fromarray((255 * pixels.transpose(1, 2, 0)).astype(np.uint8)).save(tiny.root / "patch.png")
    (tiny.root / "patch.gz").write_bytes(gzip.compress(pickle.dumps((pixels.tolist(), [1], {}), protocol=4), mtime=0))
    head, _, rest = SUITE.partition("attacks:")
    found: dict[str, tuple[Path, Callable[[], str]]] = {}
    for name in ("patch.npy", "patch.npz", "tensors.safetensors", "patch.png", "patch.gz"):
        suite = tiny.root / f"{name}.yaml"
        suite.write_text(f"{head}attacks: [{{name: file, file: {name}}}]\n{rest[rest.index('transfer:') :]}")
        found[name] = (tiny.root / name, partial(tiny.told, "validate", str(suite)))
    return found


def trials() -> Iterator[tuple[str, bool]]:
    """(reader and number of the file, whether it held)."""
    with tempfile.TemporaryDirectory() as temporary:
        tiny = Tiny(Path(temporary) / "tiny")
        tiny.root.mkdir()
        assert tiny.run() == ""
        # Pictures are written, not read; drawing them again for every file would take an hour.
        shutil.rmtree(tiny.output / "plots")
        for name in ("report.html", ".report.json"):
            (tiny.output / name).unlink()
        patch = next(path for path in sorted((tiny.output / "patches").iterdir()))
        picture = tiny.root / "picture"

        def verified() -> str:
            return tiny.told("verify", str(tiny.output), "--numbers-only")

        def applied(name: str) -> Callable[[], str]:
            told = ("apply", str(patch), "--images", str(picture / name), "--output", str(tiny.root / "shown"))
            return lambda: tiny.told(*told)

        picture.mkdir()
        for kind in ("png", "jpeg"):
            (picture / f"a.{kind}").write_bytes(image(kind))
        readers: dict[str, tuple[Path, Callable[[], str]]] = {
            "suite.yaml": (tiny.root / "tiny.yaml", lambda: tiny.told("validate", str(tiny.root / "tiny.yaml"))),
            "cells.parquet": (tiny.output / "cells.parquet", verified),
            "outcomes.parquet": (tiny.output / "outcomes.parquet", verified),
            "leaderboard.csv": (tiny.output / "leaderboard.csv", verified),
            "manifest.json": (tiny.output / "manifest.json", verified),
            "patch.safetensors": (patch, verified),
            "image.png": (picture / "a.png", applied("a.png")),
            "image.jpeg": (picture / "a.jpeg", applied("a.jpeg")),
        }
        readers |= foreign(tiny)
        for name, (path, read) in readers.items():
            data, draws = path.read_bytes(), random.Random(name)
            for number in range(FILES):
                path.write_bytes(fuzzed(data, draws))
                error = read()
                yield f"{name} {number}{f': {error}' * bool(error)}", not error
            path.write_bytes(data)
            shutil.rmtree(tiny.root / "shown", ignore_errors=True)
