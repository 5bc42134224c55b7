"""The process that is Ray's driver: turns commands into calls of actors, and what these answer into messages.

It is a process of its own because Ray ends its driver when it loses the head of its cluster. The run outlives that,
and starts another driver, which waits for the head to be back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from qpatchbench.runs.files import size_text
from qpatchbench.suite.execution.libraries import WAITING
from qpatchbench.suite.execution.workers.lifeline import die_with_the_run
from qpatchbench.suite.execution.workers.messages import Died, Idle, Message, Stopped
from qpatchbench.suite.execution.workers.ray_worker import RayEars, RayWorker

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",  # after which a driver without a head ends
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a share of a GPU sees none
}
OBJECT_STORE = 100 * 2**20  # bytes; artifacts do not travel through it


class Share(NamedTuple):
    """What the largest job takes of a node.

    Attributes:
        memory: bytes; 0: nobody knows.
        gpu: share of a GPU's memory, 0 to 1; 0: nobody knows.
    """

    memory: float = 0.0
    gpu: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and with what.

    Attributes:
        address: of a cluster to join; None: a local one is started.
        workers: how many there will be; None: one for each core.
        threads: of each; None: its share of the cores.
        gpu: whether workers compute on GPUs: always, never, or (None) where the cluster has some.
        folder: working folder of the run.
        token: a file that the run wrote into the store.
        share: what each worker takes of memory, and of a GPU at least.
        patience: seconds to wait for the cluster to be there.
        cores: of this machine, for a local cluster.
    """

    address: str | None
    workers: int | None
    threads: int | None
    gpu: bool | None
    folder: Path
    token: Path
    cores: int
    share: Share = Share()
    patience: float = 0.0


class Joined(NamedTuple):
    """The first word of a driver: how many workers there shall be, and what a person should know."""

    workers: int
    remark: str = ""


def drive(connection: Connection, cluster: Cluster, setup: bytes) -> None:
    """Be the driver until the run says ("end",) or is gone.

    Args:
        connection: brings ("start", number), ("give", number, key) and ("end",); takes `Joined`, then (number,
            message) pairs.
        cluster: where workers run.
        setup: the run, a pickled `Setup`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears it, and ends its workers
    die_with_the_run()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        driver = _Driver(connection, cluster, setup)
    except Exception as error:  # whatever Ray raises where it cannot begin
        where = f"the Ray cluster at {cluster.address}" if cluster.address else "a local Ray cluster"
        hint = "; one that asks for a token needs RAY_AUTH_MODE=token here too" if cluster.address else ""
        text = f"expected {where}, found {type(error).__name__}: {error}{hint}"
        connection.send((0, Stopped(text, storage=False)))
        return
    driver.obey()


@dataclass
class _Driver:
    connection: Connection
    cluster: Cluster
    setup: bytes
    actors: dict[int, Any] = field(default_factory=dict)
    sending: threading.Lock = field(default_factory=threading.Lock)  # answers come in threads of Ray's

    def __post_init__(self) -> None:
        self.ray = ray = _joined(self.cluster)
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes, gpus = ([int(each.get(kind, 0)) for each in found] for kind in ("CPU", "GPU"))
        workers = self.cluster.workers or max(1, sum(nodes) // (self.cluster.threads or 1))
        self.threads = self.cluster.threads or cores_each(nodes, workers)
        wanted = any(gpus) if self.cluster.gpu is None else self.cluster.gpu
        self.gpu_share = max(gpu_each(sum(gpus), workers), min(1.0, self.cluster.share.gpu)) if wanted else 0.0
        largest = max((float(each.get("memory", 0)) for each in found), default=0.0)
        self.memory = min(self.cluster.share.memory, largest)
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        ears = ray.remote(RayEars).options(num_cpus=0, scheduling_strategy=here)
        self.ears: Any = ears.remote()
        self._say(Joined(workers, too_large(self.cluster.share.memory, largest)))
        self._listen()

    def obey(self) -> None:
        """Carry out commands."""
        while True:
            try:
                command, *facts = self.connection.recv()
            except (EOFError, OSError):
                break
            if command == "end":
                break
            getattr(self, f"_{command}")(*facts)
        for actor in self.actors.values():
            self.ray.kill(actor)
        self.ray.shutdown()

    def _start(self, number: int) -> None:
        options: dict[str, Any] = {
            "num_cpus": self.threads,
            "num_gpus": self.gpu_share,
            "memory": int(self.memory) or None,
            "max_restarts": 0,
        }
        if self.cluster.address is not None:  # a local one has them from here, and processes that wait for an actor
            options["runtime_env"] = {"env_vars": worker_environment(self.threads, os.environ)}
        if number in self.actors:  # if it lives after all, it must not keep its cores
            self.ray.kill(self.actors.pop(number))
        actor = self.ray.remote(RayWorker).options(**options)
        self.actors[number] = actor.remote(number, self.setup, self.cluster.folder, self.cluster.token, self.ears)
        self._await(self.actors[number].begin.remote(), partial(self._answered, number))

    def _give(self, number: int, key: str) -> None:
        self._await(self.actors[number].attempt.remote(key), partial(self._answered, number))

    def _await(self, reference: Any, then: Callable[[Future[Any]], None]) -> None:  # noqa: ANN401 (Ray's)
        reference.future().add_done_callback(then)

    def _answered(self, number: int, answer: Future[list[Message]]) -> None:
        error = answer.exception()
        if error is not None:
            self._say((number, Died(cause_of_loss(error))))
            return
        for message in answer.result():
            self._say((number, message))
        self._say((number, Idle()))

    def _listen(self) -> None:
        self._await(self.ears.heard.remote(), self._progressed)

    def _progressed(self, answer: Future[list[tuple[int, Message]]]) -> None:
        if answer.exception() is not None:
            return  # without ears the run goes on, and shows no progress within jobs
        for told in answer.result():
            self._say(told)
        self._listen()

    def _say(self, told: object) -> None:
        with self.sending, contextlib.suppress(OSError):  # a run that has ended listens no more
            self.connection.send(told)


def _joined(cluster: Cluster) -> Any:  # noqa: ANN401 (a module that may be absent, and that types little)
    """Ray, on that cluster."""
    ray = importlib.import_module("ray")
    shown: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if cluster.address is None:
        # More workers than cores share them, as processes do.
        cores = max(cluster.cores, (cluster.workers or 1) * (cluster.threads or 1))
        threads = cluster.threads or cores_each([cores], cluster.workers or cores)
        os.environ.update(worker_environment(threads, os.environ))
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, **shown)
        return ray
    deadline = time.monotonic() + cluster.patience
    while True:
        try:
            ray.init(cluster.address, **shown)
            return ray
        except Exception:
            if time.monotonic() > deadline:
                raise
            ray.shutdown()
            time.sleep(1.0)


def worker_environment(threads: int, own: Mapping[str, str]) -> dict[str, str]:
    """Variables of a worker: its threads, and how they wait, as it is here; nodes that were joined have their own.

    >>> worker_environment(2, {"GOMP_SPINCOUNT": "1000", "HOME": "/here"})
    {'OMP_NUM_THREADS': '2', 'GOMP_SPINCOUNT': '1000'}
    """
    return {"OMP_NUM_THREADS": str(threads), **{name: own[name] for name in WAITING if name in own}}


def cores_each(nodes: Sequence[int], workers: int) -> int:
    """As many cores as each of some workers can have, where no worker is on two nodes; at least one.

    >>> cores_each([16, 16], 2), cores_each([16, 16], 3), cores_each([2], 4)
    (16, 8, 1)
    """
    most = max(nodes, default=1)
    return next((cores for cores in range(most, 1, -1) if sum(node // cores for node in nodes) >= workers), 1)


def gpu_each(gpus: int, workers: int) -> float:
    """The share of a GPU that each of some workers has, where none is on two; rounded down, as Ray counts 0.0001.

    >>> gpu_each(8, 16), gpu_each(8, 12), gpu_each(1, 6), gpu_each(8, 4)
    (0.5, 0.5, 0.1666, 1.0)
    """
    on_one = -(-workers // max(1, gpus))
    return int(1e4 / on_one) / 1e4


def too_large(wanted: float, largest: float) -> str:
    """What a person should know where no node has the memory that a job is expected to take; "" where one has.

    >>> too_large(5e9, 4e9)
    'a job is expected to take about 5.0 GB of memory, more than any node has (4.0 GB): workers have a node each'
    """
    if wanted <= largest:
        return ""
    return (
        f"a job is expected to take about {size_text(wanted)} of memory, more than any node has "
        f"({size_text(largest)}): workers have a node each"
    )


def cause_of_loss(error: BaseException) -> str:
    """Why an actor is gone, in one line: Ray tells the exit of its process last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = lines[-1] if lines else type(error).__name__
    return detail.partition(". Some common causes")[0]
