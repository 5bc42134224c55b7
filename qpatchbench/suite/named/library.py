"""The suites that come with the package, by name: `quickstart`, `papers/cifar_sweep`.

The folder is a link to the repository's `suites/`; what is installed has the files themselves.
"""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "library"
ENDING = ".yaml"


def shipped() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    files = sorted(LIBRARY.glob(f"**/*{ENDING}"))
    return {path.relative_to(LIBRARY).with_suffix("").as_posix(): path for path in files}


def located(path: Path) -> Path:
    """A suite's file: the one that lies there, or the one of that name that comes with the package."""
    return path if path.suffix or path.exists() else shipped().get(path.as_posix(), path)
