"""A clone of this repository as a reader has it: files as they are now, committed, beside an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.documents.reading import ROOT
from tests.scaffold.environment import Environment

AUTHOR = ("-c", "user.name=A reader", "-c", "user.email=reader@example.org")


def clone(folder: Path) -> Environment:
    """Into a new folder; the environment is `.venv` in it, and `make` has not installed anything there yet.

    What pip installs in it is the clone itself, and plugins; libraries are those of the environment around.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():  # one that was deleted is listed until that is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for arguments in (("init",), ("add", "--all"), (*AUTHOR, "commit", "--message", "As it is")):
        subprocess.run(["git", *arguments, *["--quiet"] * (arguments[0] != "add")], cwd=folder, check=True)
    return Environment(folder / ".venv", folder)
