"""What a document takes for given: files of the reader's own, and commands that they typed before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from qpatchbench.data.cifar import CIFAR10_CLASSES
from tests.cli.own_networks import own_network
from tests.distributions import SOFT
from tests.documents.changes import typed
from tests.documents.reading import Shown, shown

QUICKSTART = ("qpatchbench run quickstart --display none",)
MY_RUN = ("qpatchbench run quickstart --display none --output results/my_run",)
BEFORE: dict[str, tuple[str, ...]] = {
    "CONTRIBUTING.md": MY_RUN,
    "docs/deployed.md": ("qpatchbench run suites/cifar_low_bits.yaml --data-dir DIR",),
    "docs/faq.md": QUICKSTART,
    "docs/papers.md": MY_RUN,
    "docs/patches.md": MY_RUN,
    "docs/reading-a-board.md": QUICKSTART,
    "docs/reliability.md": QUICKSTART,
}
SUITE = """
suite: mine
dataset: {name: digits, image_size: 16, calibration_images: 32, craft_images: 32}
models: [resnet20]
training: {epochs: 1, images_per_epoch: 64}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 4]}]
attacks: [{name: lavan, size: 4, steps: 2, targets: untargeted}]
evaluation: {images: 20}
"""


def before(document: str) -> list[Shown]:
    """Commands that were typed before those of a document."""
    return [Shown(document, 0, text, -1) for text in BEFORE.get(document, ())]


def late(document: str) -> bool:
    """Whether a document looks at the quick start that the README trains."""
    words = " ".join(typed(each) for each in (*before(document), *shown(document)))
    return document != "README.md" and ("quickstart" in words or "make demo" in words)


def cifar10_of_digits(folder: Path) -> None:
    """Class folders as CIFAR-10 has them, with 30 digits each for training and 20 for tests, in 32 x 32 pixels."""
    digits = load_digits()
    for label, name in enumerate(CIFAR10_CLASSES):
        pixels = (digits.images[digits.target == label][:50] * (255 / 16)).round().astype(np.uint8)
        for index, image in enumerate(pixels):
            path = folder / ("train" if index < 30 else "test") / name / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR).convert("RGB").save(path)


CATALOGUES = """
from qpatchbench.registry import Entry

CATALOGUES = {"defenses": {"soft": Entry("my_defense:Soft", "labels that are never sure")}}
"""


def files(document: str, folder: Path) -> None:
    """Write those of a document into the reader's folder."""
    if document == "docs/patches.md":
        own_network(folder, 10)
    if document in ("docs/components.md", "CONTRIBUTING.md"):
        (folder / "my_defense.py").write_text(SOFT + CATALOGUES)
        (folder / "suite.yaml").write_text(SUITE.replace("[none]", "[soft]"))
    if document == "docs/scaling.md":
        (folder / "suite.yaml").write_text(SUITE)
