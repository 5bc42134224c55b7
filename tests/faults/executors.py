"""Runs on several workers, killed in part or as a whole, end with the bytes of an undisturbed serial run.

What is killed: a worker, the run, Ray's driver, the head of a Ray cluster (which is then started again).
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SUITE = """
suite: tiny
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 240, test_pool: 48, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 3, batch_size: 8, learning_rate: 0.05, augmentation: none}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}]
attacks: [{name: lavan, size: 4, steps: 150, batch_size: 4}, {name: lavan, size: 3, steps: 150, batch_size: 4}]
transfer: {sources: [32, same]}
evaluation: {images: 48}
"""
SAME = ("cells.parquet", "outcomes.parquet", "leaderboard.csv")
JOBS = 25  # of the suite
# How many lines of progress come before the kill, and for how many seconds more the run goes on.
MOMENTS = tuple((1 + (lines * 5) % JOBS, 0.07 * (lines % 4)) for lines in range(20))
# Clusters of these trials answer nobody else.
TRUSTED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
PATIENCE = 120.0
LONG = 300.0  # seconds after which a run hangs


@dataclass
class Place:
    """A cache and a run folder, and what runs there.

    Attributes:
        lines: of progress, so far.
    """

    root: Path
    options: tuple[str, ...]
    lines: list[str] = field(default_factory=list)

    def start(self) -> subprocess.Popen[str]:
        """Start a run, or go on with one."""
        suite = self.root / "tiny.yaml"
        suite.write_text(SUITE)
        command = [sys.executable, "-m", "qpatchbench", "run", str(suite), "--output", str(self.root / "out")]
        environment = {name: value for name, value in {**os.environ, **TRUSTED}.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            [*command, "--display", "plain", "--device", "cpu", *self.options],
            env={**environment, "QPATCHBENCH_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that an interrupt reaches it and what it starts, and nothing else
            # A shell starts background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def follow(self, run: subprocess.Popen[str], lines: int) -> None:
        """Read progress until so many lines have come, or the run has ended."""
        assert run.stdout is not None
        count = 0
        while count < lines and (line := run.stdout.readline()):
            self.lines.append(line)
            count += line.startswith("[") or "already done" in line

    def finish(self, run: subprocess.Popen[str]) -> int:
        """Wait for the end; gives the exit code."""
        rest, _ = run.communicate(timeout=LONG)
        self.lines += rest.splitlines(keepends=True)
        return run.returncode

    def results(self) -> dict[str, bytes]:
        """What must be the same."""
        return {name: (self.root / "out" / name).read_bytes() for name in SAME}


def descendants(process: int) -> dict[int, str]:
    """Process id -> command line of all that a process started, and what that started."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state[0] != "Z":
            parents[int(folder.name)] = int(state[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: commands[child] for child in found - {process}}


def processes_of(processes: dict[int, str]) -> list[int]:
    """Workers of the executor process, or Ray's driver."""
    return [process for process, command in processes.items() if "spawn_main" in command]


def actors_of(processes: dict[int, str]) -> list[int]:
    """Workers of a local Ray cluster."""
    return [process for process, command in processes.items() if command.startswith("ray::RayWorker")]


def kill_one(run: subprocess.Popen[str], chosen: Callable[[dict[int, str]], list[int]], place: int) -> None:
    """Kill one of the run's processes as soon as there is one; nothing where the run ends before."""
    while run.poll() is None:
        if found := sorted(chosen(descendants(run.pid))):
            with suppress(ProcessLookupError):
                os.kill(found[place % len(found)], signal.SIGKILL)
            return
        time.sleep(0.05)


def gone(processes: dict[int, str]) -> bool:
    """Whether processes end without being told to; two of Ray's own, which hold no results, take a minute."""
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{process}").exists() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def survived(place: Place, moment: tuple[int, float], chosen: Callable[[dict[int, str]], list[int]]) -> bool:
    """A run one of whose processes is killed ends by itself as if nothing had happened."""
    lines, seconds = moment
    run = place.start()
    place.follow(run, lines)
    time.sleep(seconds)
    kill_one(run, chosen, lines)
    return place.finish(run) == 0


def resumed(place: Place, moment: tuple[int, float]) -> bool:
    """A run that is killed leaves no process behind, and the same command ends it."""
    lines, seconds = moment
    run = place.start()
    place.follow(run, lines)
    time.sleep(seconds)
    started = descendants(run.pid)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    return gone(started) and place.finish(place.start()) == 0


def interrupted(place: Place, moment: tuple[int, float]) -> bool:
    """A run that is interrupted with all its processes leaves none of them, and the same command ends it."""
    lines, seconds = moment
    run = place.start()
    place.follow(run, lines)
    time.sleep(seconds)
    started = descendants(run.pid)
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGINT)
    ended = place.finish(run)
    return ended in (0, 130) and gone(started) and place.finish(place.start()) == 0


@contextmanager
def head(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The head of a Ray cluster, with two cores; what is left of it is killed."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    process = subprocess.Popen(
        [*ray, "--include-dashboard=false", "--object-store-memory=100000000"],
        env={**os.environ, **TRUSTED, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    for each in (process.pid, *descendants(process.pid)):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def survived_its_head(place: Place, moment: tuple[int, float]) -> bool:
    """A run whose cluster is killed as a whole goes on when the cluster is there again."""
    lines, seconds = moment
    port = free_port()
    address = f"127.0.0.1:{port}"
    place.options = (*place.options, "--ray-address", address)
    with head(port):
        wait_for(port)
        run = place.start()
        place.follow(run, lines)
        time.sleep(seconds)
    with head(port):
        return place.finish(run) == 0


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"port {port}")


def trials(only: str = "", times: int = 1) -> Iterator[tuple[str, bool]]:
    """Name of every trial whose name begins with `only`, and whether it went as it must; each so many times."""
    process, ray = (("--executor", name, "--workers", "2") for name in ("process", "ray"))
    kinds: dict[str, tuple[tuple[str, ...], Callable[[Place, tuple[int, float]], bool]]] = {
        "process, a worker killed": (process, lambda place, moment: survived(place, moment, processes_of)),
        "process, the run killed": (process, resumed),
        "process, interrupted": (process, interrupted),
        "ray, a worker killed": (ray, lambda place, moment: survived(place, moment, actors_of)),
        "ray, the driver killed": (ray, lambda place, moment: survived(place, moment, processes_of)),
        "ray, the run killed": (ray, resumed),
        "ray, interrupted": (ray, interrupted),
        "ray, the head killed and started again": (ray, survived_its_head),
    }
    with tempfile.TemporaryDirectory() as folder:
        serial = Place(Path(folder), ())
        assert serial.finish(serial.start()) == 0, "".join(serial.lines)
        expected = serial.results()
    for place_of_kind, (kind, (options, went)) in enumerate(kinds.items()):
        for number in range(times):
            moment = MOMENTS[(3 * place_of_kind + 7 * number) % len(MOMENTS)]
            name = f"{kind} {moment[1]:.2f} s after line {moment[0]}"
            if not name.startswith(only):
                continue
            with tempfile.TemporaryDirectory() as folder:
                place = Place(Path(folder), options)
                passed = went(place, moment) and place.results() == expected
                if not passed:
                    print("".join(place.lines), file=sys.stderr)
            yield name, passed


if __name__ == "__main__":
    wrong = 0
    for name, passed in trials(" ".join(sys.argv[1:]), times=7):
        print("ok    " if passed else "FAILED", name, flush=True)
        wrong += not passed
    sys.exit(wrong > 0)
