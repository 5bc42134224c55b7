"""Proves on one GPU in minutes what `make test` can only make likely: `python -m tests.gpu --data-dir FOLDER`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qpatchbench.ops.devices import name_of
from qpatchbench.suite.execution.device import device_named
from tests.gpu import agreement, fused_quantizers, speed, whole_run

SECTIONS: dict[str, Callable[[torch.device, Path], bool]] = {
    "components": agreement.components,
    "fused quantizers": fused_quantizers.agreement,
    "resume": agreement.resume,
    "kernels": speed.kernels,
    "speed": speed.beside_bare_loops,
    "leaderboard": whole_run.leaderboard,
}


def main() -> int:
    """Run every section; 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--device", default="auto", help="auto, cuda or cuda:N")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections to run; default: all")
    options = parser.parse_args()
    device = device_named(options.device)
    print(f"{name_of(device)}, torch {torch.__version__}, TF32 off", flush=True)
    held = {}
    for name in options.only or SECTIONS:
        started = time.perf_counter()
        held[name] = SECTIONS[name](device, options.data_dir)
        print(f"{name}: {'held' if held[name] else 'DID NOT HOLD'} ({time.perf_counter() - started:.0f} s)", flush=True)
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
