"""The main function of a worker process: attempts the jobs whose keys arrive, until the run ends or dies."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.libraries import keep_memory
from qpatchbench.suite.execution.workers.lifeline import die_with_the_run
from qpatchbench.suite.execution.workers.messages import Idle, Message, Stopped, Telling
from qpatchbench.suite.execution.workers.setup import Setup


def serve(connection: Connection, setup: Setup) -> None:
    """Attempt jobs.

    Args:
        connection: brings keys of jobs, and takes messages.
        setup: the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears it, and ends its workers
    die_with_the_run()
    keep_memory()
    with told_if_stopped(connection.send), contextlib.suppress(EOFError, BrokenPipeError):  # where the run is gone
        execution = setup.execution(Telling(connection.send, {}))
        jobs = {job.key: job for job in execution.plan.jobs}
        while True:
            connection.send(Idle())
            execution.attempt(jobs[connection.recv()])


@contextlib.contextmanager
def told_if_stopped(send: Callable[[Message], None]) -> Iterator[None]:
    """An error that is no job's own ends the whole run, and is told as that."""
    try:
        yield
    except StorageError as error:
        send(Stopped(str(error), storage=True))
    except QPatchBenchError as error:
        send(Stopped(str(error), storage=False))
    except Exception:
        send(Stopped(traceback.format_exc(), storage=False))
