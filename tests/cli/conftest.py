"""Two finished runs of a tiny suite, made once for all tests that look at finished runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qpatchbench.cli import cli

SUITE = """
suite: tiny
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 240, test_pool: 48, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 1, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}]
attacks:
  - {name: lavan, size: 4, steps: 12, step_size: 0.1, batch_size: 4}
  - {name: sparse_rs, size: 3, queries: 3, targets: untargeted}
transfer: {sources: [32, same]}
evaluation: {images: 48}
"""


@dataclass(frozen=True)
class TinyRuns:
    """Run folders of one suite with seeds 0 and 1, and the cache that both share."""

    root: Path

    @property
    def first(self) -> Path:
        """The run with seed 0."""
        return self.root / "first"

    @property
    def second(self) -> Path:
        """The run with seed 1."""
        return self.root / "second"

    @property
    def cache(self) -> Path:
        """Checkpoints and patches of both."""
        return self.root / "cache"

    def invoke(self, *arguments: str, cache: Path | None = None) -> Result:
        """A command with that cache; QPatchBenchErrors are kept in the result."""
        environment = {"QPATCHBENCH_CACHE": str(cache or self.cache), "QPATCHBENCH_DATA": None}
        return CliRunner().invoke(cli, list(arguments), standalone_mode=False, env=environment)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Finished runs; tests that change something copy them."""
    runs = TinyRuns(tmp_path_factory.mktemp("tiny"))
    suite = runs.root / "tiny.yaml"
    suite.write_text(SUITE)
    for output, seed in ((runs.first, "0"), (runs.second, "1")):
        result = runs.invoke("run", str(suite), "--output", str(output), "--seeds", seed, "--display", "none")
        assert result.return_value == 0, result.output
    return runs


CopyOf = Callable[[Path], Path]


@pytest.fixture
def copy_of(tmp_path: Path) -> CopyOf:
    """A copy of a run folder that may be changed; without plots, and so without the hashes of all files."""

    def copied(folder: Path) -> Path:
        target = tmp_path / folder.name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("plots", "report.html", ".report.json"))
        return target

    return copied


def committed(folder: Path) -> Path:
    """Let the manifest say that committed code computed everything."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["git"] = {"revision": "0" * 40, "dirty": False}
    for job in manifest["jobs"]:
        job.pop("dirty", None)
    path.write_text(json.dumps(manifest))
    return folder
