"""The network and the images that everything is measured on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from qpatchbench.data.base import DatasetSource, Decoding, Splits
from qpatchbench.data.cifar import Cifar10
from qpatchbench.data.digits import Digits
from qpatchbench.defenses.none import NoDefense
from qpatchbench.models.cifar import CifarModel
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.fp import Fp
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT

CPU = torch.device("cpu")
EPOCHS = 10


@dataclass(frozen=True)
class Subject:
    """An undefended ResNet-20 at 32 x 32.

    Attributes:
        plain: in eval mode, as it was trained.
        deployed: the same weights as the suite deploys them.
        splits: images.
    """

    plain: torch.nn.Module
    deployed: torch.nn.Module
    splits: Splits


def subject(weights: str | None, data_dir: Path | None, cache_dir: Path | None) -> Subject:
    """CIFAR-10 with given weights, or digits enlarged to 32 x 32 and a short training."""
    source: DatasetSource = Digits(image_size=32) if data_dir is None else Cifar10(craft_images=256)
    with tempfile.TemporaryDirectory() as temporary:
        splits = source.load(data_dir or Path(temporary), cache_dir or Path(temporary), Decoding(), 500)
    model = CifarModel(name="resnet20", weights=weights or "train")
    build = lambda: model.load(10, 32)  # noqa: E731 (a task wants a function of nothing)
    settings = TrainingSettings(
        epochs=0 if weights else EPOCHS, batch_size=64, schedule="cosine", augmentation="crop", precision="bf16-mixed"
    )
    task = TrainingTask(build, NoDefense(name="none"), None, (FLOAT,), settings, None, seed=0)
    state = train(task, splits.train, splits.calibration, device=CPU, snapshot=None, save=lambda snapshot: None)
    plain = model.build(10, 32)
    plain.load_state_dict(state)
    plain.eval().requires_grad_(False)
    checkpoint = Checkpoint(lambda: model.build(10, 32), state, None, (FLOAT,))
    deployed = Fp(name="fp").deploy(checkpoint, FLOAT, splits.calibration.pixels[:2].float() / 255)
    return Subject(plain, deployed, splits)
