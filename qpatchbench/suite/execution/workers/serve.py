"""The main function of a worker process: attempts the jobs whose keys arrive, until the run ends or dies."""

from __future__ import annotations

import signal
import traceback
from multiprocessing.connection import Connection

from qpatchbench.errors import QPatchBenchError, StorageError
from qpatchbench.suite.execution.workers.lifeline import die_with_the_run
from qpatchbench.suite.execution.workers.messages import Idle, Stopped, Telling
from qpatchbench.suite.execution.workers.setup import Setup


def serve(connection: Connection, setup: Setup) -> None:
    """Attempt jobs.

    Args:
        connection: brings keys of jobs, and takes messages.
        setup: the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears it, and ends its workers
    die_with_the_run()
    telling = Telling(connection.send, {})
    try:
        execution = setup.execution(telling)
        jobs = {job.key: job for job in execution.plan.jobs}
        while True:
            connection.send(Idle())
            execution.attempt(jobs[connection.recv()])
    except StorageError as error:
        connection.send(Stopped(str(error), storage=True))
    except QPatchBenchError as error:
        connection.send(Stopped(str(error), storage=False))
    except (EOFError, BrokenPipeError):
        pass  # the run is gone
    except Exception:
        connection.send(Stopped(traceback.format_exc(), storage=False))
