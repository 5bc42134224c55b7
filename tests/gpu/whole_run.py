"""One small leaderboard, from images to rows, on the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

SUITE = """
suite: gpu_check
dataset: {name: cifar10, train_images: 10000}
models: [resnet20]
training: {epochs: 3, learning_rate: 0.1, schedule: cosine, warmup: 0.1}
finetuning: {epochs: 1, learning_rate: 0.02, schedule: cosine}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}, {name: ptq, bits: [8]}]
attacks:
  - {name: lavan, size: 8, targets: untargeted, steps: 100, batch_size: 64}
  - {name: patch_apgd, size: 8, targets: untargeted, steps: 10, restarts: 1}
transfer: {sources: [32, same]}
analysis: {costs: qat}
evaluation: {images: 500}
"""


def leaderboard(device: torch.device, data_dir: Path) -> bool:
    """No job fails, networks learn, and patches made for a network break more than random ones."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "suite.yaml").write_text(SUITE)
        command = [
            sys.executable, "-m", "qpatchbench", "run", "suite.yaml", "--output", "out", "--display", "plain",
            "--device", str(device), "--data-dir", str(data_dir.absolute()),
        ]  # fmt: skip
        place = {"QPATCHBENCH_CACHE": str(root / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **place}, check=False, capture_output=True, text=True
        )
        print("  " + "\n  ".join(done.stdout.splitlines()[-14:]))
        if done.returncode:
            print(done.stderr[-3000:])
            return False
        board = pd.read_csv(root / "out" / "leaderboard.csv")
    strong = board[board["attack"].str.startswith("patch_apgd")]
    return bool(
        len(strong) > 2 and (strong["asr"] > strong["asr_control"]).all() and (board["clean_accuracy"] > 30).all()
    )
