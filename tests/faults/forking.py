"""Commands in processes that are forked off one that has imported everything and computed nothing: a start in no time.

A fork of a process that has computed would share locks of threads that are not there. Bytes of results are those of a
process of its own, which the trials hold against one.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class Forks:
    """A process that forks on demand; what it started ends with it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, *arguments: str, log: Path, **environment: str) -> int:
        """Start the command line with these arguments; its process id."""
        return int(self._ask({"arguments": arguments, "log": str(log), "environment": environment}))

    def end(self, process: int, after: float | None = None) -> int:
        """Wait for a process, or kill it that many seconds from now; its exit code, -9 of a killed one."""
        if after is not None:
            time.sleep(after)
            os.kill(process, signal.SIGKILL)  # it is not reaped yet, so that its number is its own
        return int(self._ask({"wait": process}))

    def _ask(self, question: dict[str, object]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def import_everything() -> None:
    """Every module that a run imports somewhere, so that no fork waits for a file."""
    import qpatchbench

    for found in pkgutil.walk_packages(qpatchbench.__path__, "qpatchbench."):
        if not found.name.startswith(("qpatchbench.scaffold", "qpatchbench.__main__")):
            try:
                importlib.import_module(found.name)
            except ImportError:  # of an extra that is not installed
                continue
    import matplotlib.figure  # noqa: F401


def run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """The command line in this process, which ends with it."""
    from qpatchbench.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.environ.update(environment)
    sys.argv = ["qpatchbench", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def serve() -> None:
    """Fork for every line of standard input, or wait for a fork."""
    import_everything()
    assert threading.active_count() == 1, threading.enumerate()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in iter(sys.stdin.readline, ""):
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                run(question["arguments"], Path(question["log"]), question["environment"])
        answers.write(f"{answer}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
