"""Worker processes that load no torch: jobs are words that say what a worker does."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from qpatchbench.suite.execution.workers.lifeline import die_with_the_run
from qpatchbench.suite.execution.workers.messages import Finished, Idle, Noted
from qpatchbench.suite.execution.workers.processes import Processes


def serve(connection: Connection, number: int) -> None:
    """Do what keys say: "threads", "sleep", "kill", "exit"; anything else is finished at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_the_run()
    while True:
        connection.send(Idle())
        key = connection.recv()
        if key == "threads":
            connection.send(Noted(os.environ["OMP_NUM_THREADS"]))
        elif key == "pid":
            connection.send(Noted(str(os.getpid())))
        elif key == "sleep":
            time.sleep(600)
        elif key == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif key == "exit":
            os._exit(3)
        connection.send(Finished(key, float(number)))


def crew_of(count: int) -> Processes:
    """Such workers."""
    return Processes(count, serve, lambda number: (number,))


def sleep_in(count: int) -> None:
    """A run whose workers never end: prints their process ids, then waits."""
    crew = crew_of(count)
    for number in range(count):
        crew.start(number)
    told = 0
    while told < count:
        for number, message in crew.heard():
            match message:
                case Idle():
                    crew.give(number, "pid" if number not in SEEN else "sleep")
                    SEEN.add(number)
                case Noted(text):
                    print(text, flush=True)
                    told += 1
    time.sleep(600)


SEEN: set[int] = set()

if __name__ == "__main__":
    sleep_in(int(sys.argv[1]))
