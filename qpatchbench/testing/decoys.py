"""Components that are broken on purpose, and what must catch each: the benchmark is tested, too.

`qpatchbench --plugin qpatchbench.testing.decoys run SUITE` runs them like any other component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.attacks.lavan import Lavan
from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.fake import Fake
from qpatchbench.models.base import ModelSource, Preprocessing
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.models.resnet_cifar import CifarResNet
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.preprocessors.patchcleanser import PatchCleanser
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.frozen.deploying import deploy_float
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.registry import Entry
from qpatchbench.types import Bits, CraftTask, Network, Patch, Placement


class Decoy(NamedTuple):
    """What catches a broken component.

    Attributes:
        kind: registry, for example "attacks".
        name: under which it is registered.
        check: of the conformance kit, which fails.
        says: words of its message.
        validity: check of a run, which fails on every row of it; "error" where it is one; "" if none can tell.
    """

    kind: str
    name: str
    check: str
    says: str
    validity: str = ""


class SignFlipped(Lavan):
    """Steps uphill: its patches make networks more certain of the right class."""

    def objective(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The negative of what should be minimised."""
        return -super().objective(logits, labels, targets)


class Oversized(Lavan):
    """Takes a row and a column more than its budget."""

    def craft(self, task: CraftTask) -> Patch:
        """Patches that are one pixel too wide and too high."""
        patch = super().craft(task)
        wider: Callable[[torch.Tensor], torch.Tensor] = nn.ReplicationPad2d((0, 1, 0, 1))
        return replace(patch, textures=wider(patch.textures), masks=wider(patch.masks))


class DiagonalOnly(Lavan):
    """Learns its patch for places on the diagonal, as one random number for row and column gives them."""

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """The same row and column."""
        placement = super().place(count, image_size, generator)
        return replace(placement, columns=placement.rows)


class Raising(Lavan):
    """Gives up without a patch."""

    def craft(self, task: CraftTask) -> Patch:
        """Raises."""
        raise RuntimeError("no patch today")


class Unquantized(Ptq):
    """Calls a float network one of few bits."""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> nn.Module:
        """The float network, whatever `bits` says."""
        return deploy_float(checkpoint, self.mode, calibration)


class TrainMode(Ptq):
    """Deploys networks whose BatchNorm looks at the batch."""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> nn.Module:
        """In training mode."""
        return deploy_float(checkpoint, self.mode, calibration).train()


class UpdatingObservers(Ptq):
    """Deploys networks that go on observing what they are shown."""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> nn.Module:
        """With a range that follows the images."""
        return _Observing(deploy_float(checkpoint, self.mode, calibration)).eval().requires_grad_(False)


class GradientKiller(Ptq):
    """Deploys networks that hide their gradient."""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> nn.Module:
        """With a gradient of zero."""
        return _Blind(deploy_float(checkpoint, self.mode, calibration)).eval()


class Obfuscated(Preprocessor):
    """Says that its gradient is useful, and has none."""

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """The images, cut off from what they were made of."""
        return images.detach() + 0 * images


class LyingCertificate(PatchCleanser):
    """Certifies whatever is right without a patch."""

    def answer(self, network: Network, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the network answers, without any mask."""
        return network(images)

    def certified(
        self, network: Network, images: torch.Tensor, labels: torch.Tensor, state: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Where the network is right."""
        with torch.no_grad():
            return network(images).argmax(dim=1) == labels


class Probabilities(ModelSource):
    """Ends in a softmax, whose gradient vanishes where it is certain."""

    def preprocessing(self, image_size: int) -> Preprocessing:
        """No resizing."""
        return Preprocessing(image_size, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)

    def build(self, num_classes: int, image_size: int) -> nn.Module:
        """A ResNet-20 with a softmax."""
        network = nn.Sequential(CifarResNet(20, num_classes), nn.Softmax(dim=1))
        return ImageClassifier(network, (0.5,) * 3, (0.25,) * 3, image_size)


class Overlapping(Fake):
    """Evaluates on images that were trained on."""

    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        """The first training images, once more, as evaluation images."""
        splits = super().load(data_dir, cache_dir, decoding, evaluation_images)
        known = splits.train[: len(splits.evaluation)]
        return replace(splits, evaluation=replace(known, ids=splits.evaluation.ids[: len(known)]))


class LabelLeak(Fake):
    """Writes the label into the corner of every image."""

    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        """The corner of channel 0 is the label."""
        splits = super().load(data_dir, cache_dir, decoding, evaluation_images)
        marked = {}
        for name in ("train", "calibration", "craft", "evaluation"):
            part = getattr(splits, name)
            pixels = part.pixels.clone()
            pixels[:, 0, 0, 0] = part.labels.to(torch.uint8)
            marked[name] = replace(part, pixels=pixels)
        return replace(splits, **marked)


class Stale(Fake):
    """Changes its images behind its fingerprint: stored results of others would be taken for its own."""

    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        """Evaluation images in negative."""
        splits = super().load(data_dir, cache_dir, decoding, evaluation_images)
        return replace(splits, evaluation=replace(splits.evaluation, pixels=255 - splits.evaluation.pixels))


class _Observing(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("largest", torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        largest = 0.9 * self.get_buffer("largest") + 0.1 * images.detach().mean()
        self.get_buffer("largest").copy_(largest)
        logits: torch.Tensor = self.network(images / largest)
        return logits


class _Blind(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.detach())
        return logits + 0 * images.sum()


DECOYS = (
    Decoy("attacks", "sign_flipped", "the_patch_beats_noise", "look at the sign of the step", "V2"),
    Decoy("attacks", "oversized", "the_patch_is_well_formed", "textures of shape", "V10"),
    Decoy("attacks", "diagonal_only", "every_place_is_reached", "rows and columns drawn independently"),
    Decoy("attacks", "raising", "the_patch_is_well_formed", "raised RuntimeError: no patch today", "V10"),
    Decoy("quantizers", "unquantized", "weights_and_activations_have_few_levels", "what every layer reads", "V15"),
    Decoy("quantizers", "train_mode", "it_is_frozen", "call eval() before returning", "V7"),
    Decoy("quantizers", "updating_observers", "it_is_frozen", "fixed observers", "error"),
    Decoy("quantizers", "gradient_killer", "gradients_reach_the_image", "zero everywhere", "V3"),
    Decoy("preprocessors", "obfuscated", "its_gradient_is_useful", "zero everywhere", "V3"),
    Decoy("preprocessors", "lying_certificate", "certificates_hold", "turns a certified image", "V17"),
    Decoy("models", "probabilities", "it_answers_logits", "leave out the softmax", "V7"),
    Decoy("datasets", "overlapping", "parts_are_disjoint", "no image in two parts", "V9"),
    Decoy("datasets", "stale", "fingerprints_are_of_the_images", "the fingerprint of the evaluation images"),
    Decoy("datasets", "label_leak", "labels_are_not_in_a_pixel", "no pixel that tells the label"),
)

CATALOGUES = {
    kind: {
        decoy.name: Entry(f"{__name__}:{decoy.name.title().replace('_', '')}", "broken on purpose")
        for decoy in DECOYS
        if decoy.kind == kind
    }
    for kind in dict.fromkeys(decoy.kind for decoy in DECOYS)
}
