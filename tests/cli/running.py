"""Commands run in this process: what they print and write, without importing torch again as one of their own would."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from qpatchbench.cli import main
from tests.distributions import as_if_started_now


def ended(*arguments: str, folder: Path, **environment: str) -> CompletedProcess[str]:
    """The entry point with these arguments in a folder: its exit code, and all that it would print at a terminal.

    Plugins that it loads are forgotten afterwards.
    """
    output, errors = io.StringIO(), io.StringIO()
    with (
        patch("sys.argv", ["qpatchbench", *arguments]),
        patch.dict(os.environ, environment),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        as_if_started_now(),
        patch("qpatchbench.cli.keep_memory"),  # the process is that of all tests
        patch("qpatchbench.cli.wait_asleep"),
        pytest.raises(SystemExit) as end,
    ):
        main()
    code = end.value.code
    assert isinstance(code, int), code
    return CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())
