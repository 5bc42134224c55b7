"""A limit on how long one job may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from qpatchbench.errors import TimeLimitError


@contextmanager
def at_most(seconds: float | None, title: str) -> Iterator[None]:
    """Interrupt what runs inside after some seconds; None: never.

    It works by a signal: code that is deep in one call of a library is interrupted when that call returns.

    Raises:
        TimeLimitError: it took longer.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise TimeLimitError(f"{title}: expected a time limit in the main thread only, found another thread")

    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise _Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Interrupted:
        pass  # told below, as where a component swallowed it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if interrupted:
        raise TimeLimitError(
            f"{title}: expected at most {seconds:g} s, found it still at work; its result is not kept: raise "
            "--time-limit, or see why it hangs"
        )


class _Interrupted(BaseException):
    """Passes every `except Exception` of a component."""
