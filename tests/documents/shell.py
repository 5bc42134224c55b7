"""Commands typed one after the other into one shell."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# The folder and the variables that a command leaves behind are those of the next.
TYPED = """. "$STATE"
{command}
status=$?
{{ printf 'cd %q\\n' "$PWD"; export -p; }} > "$STATE"
exit $status
"""


class Ended(NamedTuple):
    """How a command ended: its status, -9 where it was stopped; seconds; all that it printed."""

    status: int
    seconds: float
    printed: str


class Shell:
    """One shell, which starts in `folder`; what it remembers is in the file `state`."""

    def __init__(self, folder: Path, state: Path, variables: Mapping[str, str]) -> None:
        self.folder, self.state = folder, state
        self.variables = {**variables, "STATE": str(state)}
        self.state.write_text("")

    def enters(self, folder: Path) -> None:
        """As a reader who goes back to where they started."""
        with self.state.open("a") as file:
            file.write(f"cd {folder}\n")

    def types(self, command: str, seconds: float) -> Ended:
        """A line or a script; it is stopped after so many seconds."""
        started = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", TYPED.format(command=command)], cwd=self.folder, env=self.variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
        return Ended(process.returncode, time.monotonic() - started, printed)
