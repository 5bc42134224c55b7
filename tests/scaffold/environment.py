"""A virtual environment that sees this package and all that it needs, and what is installed in itself."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

# No network, and no environment made just for building: everything needed is here. pip reads no from a 0.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}


class Environment:
    """Made in a folder that is not there yet; `package` is a checkout of this repository, whose code it runs."""

    def __init__(self, folder: Path, package: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        self.bin = folder / "bin"
        (packages,) = folder.glob("lib/python*/site-packages")
        # Not a plain path: the environment around may have links of its own, as editable installations make them.
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "around.pth").write_text("\n".join([str(package), *lines, ""]))
        self._script("qpatchbench", "from qpatchbench.cli import main; main()")
        self._script("pytest", "import pytest; sys.exit(pytest.main())")
        self._script("pip", "import runpy; runpy.run_module('pip', run_name='__main__')")

    def _script(self, name: str, code: str) -> None:
        path = self.bin / name
        # As pip writes them: a worker that is spawned imports this file, too.
        path.write_text(f"#!{self.bin / 'python'}\nimport sys\nif __name__ == '__main__':\n    {code}\n")
        path.chmod(0o755)

    def variables(self, cache: Path) -> dict[str, str]:
        """Those of this process, with its programs first in the path and `cache` as cache."""
        programs = (str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"])
        own = {"PATH": ":".join(programs), "QPATCHBENCH_CACHE": str(cache)}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        foreign = ("PYTHONPATH", "PYTEST_ADDOPTS", "QPATCHBENCH_DATA", "MAKEFLAGS")
        return {**{name: value for name, value in os.environ.items() if name not in foreign}, **own, **OFFLINE}
