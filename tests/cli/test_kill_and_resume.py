"""A run that is killed at any moment ends, when started again, as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import ended

SUITE = """
suite: tiny
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 240, test_pool: 30, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 2, batch_size: 32, learning_rate: 0.05, augmentation: none}
finetuning: {epochs: 1, batch_size: 32, learning_rate: 0.01, augmentation: none}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 2]}]
attacks: [{name: lavan, size: 2, steps: 4, batch_size: 4}]
transfer: {sources: [32, same]}
evaluation: {images: 30}
"""
KILLS = 3


@dataclass(frozen=True)
class Place:
    """A suite file with a cache and an output folder of its own."""

    root: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "QPATCHBENCH_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"}

    @property
    def output(self) -> Path:
        return self.root / "out"

    def start(self, *options: str) -> subprocess.Popen[str]:
        suite = self.root / "tiny.yaml"
        suite.write_text(SUITE)
        command = [sys.executable, "-m", "qpatchbench", "run", str(suite), "--output", str(self.output)]
        return subprocess.Popen(
            [*command, "--display", "plain", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell starts background jobs with SIGINT ignored, and children inherit that; here it shall interrupt.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def finish(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        text, _ = process.communicate(timeout=240)
        return process.returncode, text

    def leaderboard(self) -> bytes:
        return (self.output / "leaderboard.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run without interruption."""
    place = Place(tmp_path_factory.mktemp("whole"))
    code, text = place.finish()
    assert code == 0, text
    return place


def finished(text: str) -> list[str]:
    """The jobs that a run said it had finished."""
    return [line.partition("] ")[2].partition(":")[0] for line in text.splitlines() if line.startswith("[")]


def test_killed_again_and_again_it_ends_with_the_same_leaderboard(whole: Place, tmp_path: Path) -> None:
    place = Place(tmp_path)
    died, said = 0, ""
    for number in range(KILLS):
        process = place.start()
        assert process.stdout is not None
        if number:
            for line in process.stdout:
                said += line
                if line.startswith(f"[{6 * number}/"):
                    break
        else:
            time.sleep(0.05)  # while it imports
        died += process.poll() is None
        process.send_signal(signal.SIGKILL)
        said += process.communicate()[0]
    assert died >= 3, "the runs ended before they could be killed"
    assert len(finished(said)) >= 6
    code, text = place.finish()
    assert code == 0, text
    assert len(set(finished(said + text))) == len(finished(said + text)), "nothing finished is computed twice"
    assert place.leaderboard() == whole.leaderboard()


def test_a_finished_run_does_nothing(whole: Place) -> None:
    place = whole
    before = {path: path.stat().st_mtime_ns for path in place.output.rglob("*") if path.is_file()}
    started = time.monotonic()
    code, text = place.finish()
    assert code == 0
    assert time.monotonic() - started < 5
    assert text.startswith("tiny: nothing to do")
    assert {path: path.stat().st_mtime_ns for path in place.output.rglob("*") if path.is_file()} == before


def test_a_damaged_artifact_is_reported_and_rebuilt(whole: Place) -> None:
    place = whole
    expected = place.leaderboard()
    patch = next((place.root / "cache" / "craft").rglob("*.safetensors"))
    data = bytearray(patch.read_bytes())
    data[-1] ^= 0xFF
    patch.write_bytes(data)
    cell = next((place.root / "cache" / "evaluate").rglob("*.safetensors"))
    cell.write_bytes(cell.read_bytes()[:-3])
    (place.output / ".report.json").unlink()
    code, text = place.finish()
    assert code == 0, text
    assert f"{cell}: damaged evaluate artifact" in text
    assert "computed again" in text
    assert place.leaderboard() == expected


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = place.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/"):
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "the same command goes on from there" in rest
    assert len(list((tmp_path / "cache" / "train").rglob("*.json"))) >= 1


def test_a_disk_that_refuses_gives_one_error_and_keeps_the_rest(whole: Place, tmp_path: Path) -> None:
    place = whole
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = {"QPATCHBENCH_CACHE": str(place.root / "cache")}
    result = ended("run", "tiny.yaml", "--output", str(blocked / "out"), folder=place.root, **cache)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(f"error: {blocked / 'out'}")
    assert "cannot be written" in message
    assert "Traceback" not in result.stderr
    manifest = json.loads((place.output / "manifest.json").read_text())
    assert manifest["complete"] is True
