"""A lifeline from a run to its workers: they are gone when it is."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def die_with_the_run() -> None:
    """Kill this process when the one that started it is gone, however it went, and whatever is at work here."""
    run = parent_process()
    if run is None:
        return

    def watch() -> None:
        wait([run.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
