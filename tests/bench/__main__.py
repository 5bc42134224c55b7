"""Prints one table of ratios. Minutes, not hours: `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from qpatchbench.suite.execution.libraries import wait_asleep

wait_asleep()  # as commands and workers do, before torch is loaded

import torch  # noqa: E402

from tests.bench import against_art, attacks, defenses, loops  # noqa: E402
from tests.bench.subject import subject  # noqa: E402
from tests.bench.timing import Row  # noqa: E402

SECTIONS = {
    "crafting": loops.crafting,
    "compiled": loops.compiled,
    "threads": loops.threads,
    "goals": loops.goals,
    "evaluation": loops.evaluation,
    "quantization": loops.fake_quantization,
    "images": attacks.image_by_image,
    "costs": attacks.costs,
    "defenses": defenses.costs,
    "autopatch": attacks.together,
    "strength": against_art.strength,
    "art": against_art.speed,
}
LONG = {"strength", "autopatch"}  # asked for by name


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--weights", help="weights of a CIFAR-10 ResNet-20 (.safetensors or .pt); with --data-dir")
    parser.add_argument("--data-dir", type=Path, help="folder that holds CIFAR-10; default: digits at 32 x 32")
    parser.add_argument("--cache-dir", type=Path, help="where decoded images are kept; default: nowhere")
    every = f"sections to run; default: all but {' and '.join(sorted(LONG))}"
    parser.add_argument("--only", choices=SECTIONS, action="append", help=every)
    options = parser.parse_args()
    if (options.weights is None) != (options.data_dir is None):
        parser.error("--weights and --data-dir belong together")
    torch.manual_seed(0)
    started, spent = time.perf_counter(), dict[str, float]()
    measured = subject(options.weights, options.data_dir, options.cache_dir)
    evaluation = measured.splits.evaluation
    with torch.no_grad():
        predicted = measured.deployed(evaluation.pixels.float() / 255).argmax(dim=1)
    accuracy = 100 * float((predicted == evaluation.labels).float().mean())
    show([Row("clean accuracy", f"{accuracy:.1f} %", f"ResNet-20, {torch.get_num_threads()} threads")])
    for name in options.only or [name for name in SECTIONS if name not in LONG]:
        begun = time.perf_counter()
        show(SECTIONS[name](measured))
        spent[name] = time.perf_counter() - begun
    each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items())
    show([Row("time", f"{time.perf_counter() - started:.0f} s", f"everything, training included; {each}")])


def show(rows: list[Row]) -> None:
    """One line each, in columns, as soon as they are known."""
    for row in rows:
        print(f"{row.name:32}  {row.value:>14}  {row.meaning}", flush=True)


if __name__ == "__main__":
    main()
