"""Settings of a process for the libraries that compute."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from qpatchbench.suite.execution.libraries import wait_asleep

PAGES = """
import resource
from qpatchbench.suite.execution.libraries import keep_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        len(b"x" * 2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages(), int(keep_memory()), pages())
"""


def asked(**environment: str) -> tuple[int, int, int]:
    """Pages that the system gave before, whether the allocator was asked, and pages after."""
    chosen = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    done = subprocess.run(
        [sys.executable, "-c", PAGES], env=kept | environment, check=True, capture_output=True, text=True
    )
    before, was_asked, after = map(int, done.stdout.split())
    return before, was_asked, after


def test_memory_that_was_freed_is_used_again() -> None:
    before, was_asked, after = asked()
    assert was_asked == (platform.libc_ver()[0] == "glibc")
    if was_asked:
        assert after < before / 4  # the first of eight blocks is new, the others are it again


def test_whoever_chose_an_allocator_keeps_it() -> None:
    assert asked(MALLOC_ARENA_MAX="2")[1] == 0


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_threads_wait_as_the_user_says(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_asleep()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ.get("OMP_WAIT_POLICY") == given.get("OMP_WAIT_POLICY")
