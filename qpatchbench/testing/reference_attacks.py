"""Second implementations of `gap` and `lavan`, written from the papers alone: what V14 compares those with.

The simplest loop that the papers describe: one target after the other, a grey start, Adam at one learning rate, the
last iterate. Nothing of `qpatchbench.ops` is in it: places come from numpy, a patch is laid by two products with
matrices of zeros and ones, and the losses are written out as products with one-hot vectors. The fields are those of
the attack that is compared, so that both are asked for the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import log_softmax, one_hot

from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.errors import AttackError
from qpatchbench.types import CraftTask, Patch, Targeted


class PlainLoop(UniversalAttack):
    """Adam on the mean loss of random images with the patch at random places."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, label: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Logits (B, K), one-hot labels (B, K), a one-hot target (K,) or None for untargeted -> ()."""

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal, each from a loop of its own."""
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=task.generator)))
        found, histories = [], []
        for index, goal in enumerate(task.goals):
            texture, history = self._one(task.part(index, len(task.goals)), goal, random)
            found.append(texture)
            histories.append(history)
        textures = torch.stack(found)
        mean = tuple(float(loss) for loss in np.mean(histories, axis=0))
        return Patch(textures, torch.ones_like(textures[:, :1]), task.goals, mean)

    def _one(self, task: CraftTask, goal: object, random: np.random.Generator) -> tuple[torch.Tensor, list[float]]:
        images, network = task.crafting, task.network
        device, side = images.pixels.device, self.size.side(images.side)
        texture = torch.full((3, side, side), 0.5, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([texture], lr=self.step_size)
        history = []
        for step, chosen in enumerate(_batches(random, len(images), self.batch_size, self.steps)):
            index = torch.from_numpy(chosen).to(device)
            shown = images.pixels[index] / 255
            patched = laid(shown, texture, *random.integers(images.side - side + 1, size=(2, len(index))))
            logits = network(patched).float()
            classes = logits.shape[1]
            target = None
            if isinstance(goal, Targeted):
                target = one_hot(torch.tensor(goal.class_id, device=device), classes).float()
            loss = self.loss(logits, one_hot(images.labels[index], classes).float(), target)
            if not bool(torch.isfinite(loss)):
                raise AttackError(f"the loss is not finite at step {step + 1} of {self.steps}")
            optimizer.zero_grad()
            (texture.grad,) = torch.autograd.grad(loss, texture)
            optimizer.step()
            texture.data.clamp_(0, 1)
            history.append(loss.item())
            task.progress((step + 1) / self.steps, {"loss": history[-1]})
        return texture.detach(), history


class PlainGap(PlainLoop, Gap):
    """Brown et al. 2017, section 2, upright and at native size: the mean of -log P(target)."""

    def loss(self, logits: torch.Tensor, label: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """-log P(target), or log P(label) where there is none."""
        if self.rotation or self.scale != (1.0, 1.0):
            raise AttackError("expected rotation 0 and scale 1, which is all that the second implementation knows")
        logarithms = log_softmax(logits, dim=1)
        return -(logarithms @ target).mean() if target is not None else (logarithms * label).sum(dim=1).mean()


class PlainLavan(PlainLoop, Lavan):
    """Karmon et al. 2018, section 3: the label's logit less the target's."""

    def loss(self, logits: torch.Tensor, label: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Mean of z_label - z_target, or of z_label less the largest other logit where there is no target."""
        own = (logits * label).sum(dim=1)
        if target is not None:
            return (own - logits @ target).mean()
        return (own - (logits - 1e9 * label).max(dim=1).values).mean()


def laid(images: torch.Tensor, texture: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """Images (B, 3, H, W) with a texture (3, h, w) on each, its top-left pixel at rows and columns (B,).

    Down @ texture @ Across moves the texture to its place, where Down (B, H, h) and Across (B, w, W) hold a 1 for
    each of its rows and columns; what they make of a texture of ones is the mask.
    """
    side = texture.shape[-1]
    height, width = images.shape[-2:]
    within = torch.arange(side, device=images.device)
    down = one_hot(torch.as_tensor(rows, device=images.device)[:, None] + within, height).to(images.dtype)
    across = one_hot(torch.as_tensor(columns, device=images.device)[:, None] + within, width).to(images.dtype)
    moved = torch.einsum("bih,cij,bjw->bchw", down, texture, across)
    mask = torch.einsum("bih,bjw->bhw", down, across)[:, None]
    return images * (1 - mask) + moved * mask


def _batches(random: np.random.Generator, count: int, size: int, steps: int) -> Iterator[np.ndarray]:
    """`steps` batches of random images; none twice in a batch, where there are enough."""
    for _ in range(steps):
        yield random.choice(count, size, replace=size > count)
