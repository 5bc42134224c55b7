"""TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132): training that keeps the bit-widths of a network apart.

    L = L_clean + lambda_adv L_adv + lambda_fdp L_FDP + lambda_gpdp L_GPDP      (sections 3.2 to 3.4)

L_clean and L_adv are cross-entropies of the clean and of the patched half of a batch, means over the active widths. FDP
is the similarity of early features, GPDP that of input gradients, between the widths, on the patched half; both are
alpha * SoftDice of edges + beta * cosine of SoftHOG descriptors, see `ops.maps.disalignment`. BACT lets narrow widths
join later. There is no public code. Where the paper is open or contradicts itself, taken here by our own choice:

- pairs are unordered and averaged, and so are layers; the printed sum over ordered pairs grows tenfold while
  widths join (`pair_norm: paper_sum`);
- every map is standardised and every edge map cut softly; equation 3 and both algorithms omit the cut, without which
  "Dice" has no bound, and a sharpness of 100 means nothing for raw gradients of 1e-4;
- features are what the next layer reads: after BatchNorm, nonlinearity and activation quantizer, of the layers that
  the network calls early; "L1-L3" would be all of a CIFAR ResNet;
- gradients are those of each image's own cross-entropy to the image in [0, 1], over the whole image;
- each half has its own BatchNorm statistics, patched first, so nothing of the clean half enters FDP and GPDP;
- BACT starts with the two widest of any set and the others join after 30, 45 and 60 % of the training (not given);
- the pool is drawn from uniformly, one texture per step, at an independent place on every image, also on images of
  the class that the patch aims at; `on_the_fly` follows equation 4 with one width and one place per step, without
  its "geometric jitter"; its steps, step size and sign are not given.
"""  # noqa: D214 (a formula)

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.quantized_patches import Ascent, ascended_texture
from qpatchbench.ops.maps.disalignment import Measure, pair_similarities
from qpatchbench.ops.maps.similarity import prepared
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import Bits, Losses, Size

Fraction = Annotated[float, Field(ge=0, lt=1)]


class _View(NamedTuple):
    """What one bit-width made of the patched images: cross-entropy (), and maps (B, h, w) by layer and of the gradient.

    Maps that are not compared are left out.
    """

    loss: torch.Tensor
    features: dict[str, torch.Tensor]
    gradient: torch.Tensor | None


class TriQDef(Defense):
    """Joint training on patched images with penalties on features and gradients that the bit-widths share."""

    version: ClassVar[int] = 2
    calibrates: ClassVar[bool] = True

    lambda_adv: float = Field(default=1.0, ge=0, description="weight of the patched images' cross-entropy")
    lambda_fdp: float = Field(default=0.8, ge=0, description="weight of the similarity of features; 0 skips it")
    lambda_gpdp: float = Field(default=0.5, ge=0, description="weight of the similarity of gradients; 0 skips it")
    alpha: float = Field(default=0.5, ge=0, description="weight of SoftDice of edges within both similarities")
    beta: float = Field(default=1.0, ge=0, description="weight of the SoftHOG cosine within both similarities")
    sharpness: float = Field(default=100.0, gt=0, description="k: how sharply edges are cut, of standardised maps")
    quantile: float = Field(default=0.85, gt=0, lt=1, description="q: share of the pixels of a map that is no edge")
    kappa: float = Field(
        default=10.0, gt=0, description="how sharply a SoftHOG vote falls on one bin; not in the paper"
    )
    layers: tuple[str, ...] = Field(
        default=(), description="layers whose features are compared; none: those that the network calls early"
    )
    per_channel: bool = Field(default=False, description="compare every channel, instead of the mean of all")
    pair_norm: Literal["mean", "paper_sum"] = Field(
        default="mean", description="mean over pairs and layers, or the sum over ordered pairs and layers as printed"
    )
    pair_mode: Literal["joint", "detach_partner"] = Field(
        default="joint",
        description="both widths of a pair learn from it; or the narrower one only, which is cheaper",
    )
    chance_floor: bool = Field(
        default=False, description="a similarity counts as far as it exceeds that of noise, measured per map size"
    )
    bact: bool = Field(default=True, description="curriculum: the two widest first, others join; false: all at once")
    boundaries: tuple[Fraction, ...] = Field(
        default=(0.30, 0.45, 0.60),
        min_length=1,
        description="shares of the training after which the third, fourth, .. widest joins; further ones with the last",
    )
    patches: Literal["pool", "on_the_fly"] = Field(
        default="pool", description="a random one of the suite's pool, or one made by gradient ascent in every step"
    )
    goal: Literal["untargeted", "targeted"] = Field(
        default="untargeted", description="on_the_fly: away from the label, or towards one random class per step"
    )
    size: Size = Field(
        default=Size(percent=4.0), description="on_the_fly: side in pixels, or the share of the image it covers"
    )
    steps: int = Field(default=10, ge=0, description="on_the_fly: K, steps that make a patch")
    step_size: float = Field(default=0.05, gt=0, le=1, description="on_the_fly: change of a pixel per step")

    @field_validator("layers")
    @classmethod
    def _each_once(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({layer for layer in layers if layers.count(layer) > 1})
        if repeated:
            raise ValueError(f"expected every layer once, found {', '.join(repeated)} repeatedly")
        return layers

    @property
    def wants_pool(self) -> bool:
        """Unless it makes its own patches."""
        return self.patches == "pool"

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        """BACT (section 3.4): the two widest, and those whose boundary is reached; in the order given."""
        if not self.bact:
            return bits
        widest_first = sorted(bits, reverse=True)
        ordered = sorted(self.boundaries)
        joins = [0.0, 0.0, *ordered, *[ordered[-1]] * len(bits)]
        active = {width for width, start in zip(widest_first, joins, strict=False) if epoch_fraction >= start}
        return tuple(width for width in bits if width in active)

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Both halves at every active width; a gradient of the gradient about doubles the patched half."""
        boundaries = [0.0, *sorted(self.boundaries), 1.0]
        spans = zip(boundaries, boundaries[1:], strict=False)
        widths = sum((end - start) * len(self.active_bits(start, bits)) for start, end in spans)
        crafting = 1.5 * self.steps if self.patches == "on_the_fly" else 0.0
        return widths * (4.5 if self.lambda_gpdp else 3.0) + crafting

    @property
    def compared_layers(self) -> tuple[str, ...] | None:
        """`layers`, unless the term that compares them has no weight."""
        return self.layers if self.lambda_fdp else None

    @property
    def least_batch(self) -> int:
        """Two: half of it is patched."""
        return 2

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """The weighted terms `clean`, `patched`, `fdp` and `gpdp`; the last two only where two widths are compared.

        Raises:
            TrainingError: the batch has no second half, the pool is empty, or a patch or a layer does not fit.
        """
        from qpatchbench.ops.training.early_backward import backward_now

        clean, attacked = batch.halves()
        if not len(attacked.labels):
            raise TrainingError(f"{self.title}: expected a batch_size of at least 2, half of it patched, found 1")
        patched = Batch(self.patched(network, attacked, step), attacked.labels)
        order = sorted(step.bits, reverse=True)
        layers: tuple[str, ...] = ()
        if self.lambda_fdp and len(order) > 1:
            layers = self.layers or network.early_layers(patched.images)
        gradients = self.lambda_gpdp > 0 and len(order) > 1
        views, clean_losses = [], []
        for bits in order:
            # The widest one of a pair that does not learn needs no graph.
            constant = self.pair_mode == "detach_partner" and bits == order[0]
            views.append(self._view(network, bits, patched, layers, gradients, constant))
            clean_loss = torch.nn.functional.cross_entropy(network.at(bits)(clean.images), clean.labels)
            # The graphs of all patched halves are alive together, and large; those of the clean halves need not be.
            clean_losses.append(backward_now(clean_loss) if gradients else clean_loss)
        losses = {
            "clean": torch.stack(clean_losses).mean(),
            "patched": self.lambda_adv * torch.stack([view.loss for view in views]).mean(),
        }
        if layers:
            terms = [self.similarity([view.features[layer] for view in views], layer) for layer in layers]
            total = torch.stack(terms)
            losses["fdp"] = self.lambda_fdp * (total.mean() if self.pair_norm == "mean" else total.sum())
        if gradients:
            of_images = [view.gradient for view in views if view.gradient is not None]
            losses["gpdp"] = self.lambda_gpdp * self.similarity(of_images, "the image")
        return losses

    def similarity(self, views: Sequence[torch.Tensor], place: str) -> torch.Tensor:
        """Equations 2 and 3 for one layer: prepared maps (B, h, w) of two or more widths, widest first -> ().

        Raises:
            TrainingError: the maps, of `place`, are too small for a HOG descriptor.
        """
        measure = Measure(
            self.alpha, self.beta, self.sharpness, self.quantile, self.kappa,
            above_chance=self.chance_floor, first_constant=self.pair_mode == "detach_partner",
        )  # fmt: skip
        try:
            pairs = pair_similarities(views, measure)
        except ValueError as error:
            raise TrainingError(
                f"{self.title}: cannot compare {place}: {error}. Choose `layers` with larger maps"
            ) from None
        return pairs.mean() if self.pair_norm == "mean" else 2 * pairs.sum()

    def patched(self, network: SwitchableNetwork, batch: Batch, step: Step) -> torch.Tensor:
        """The images (B, 3, H, W) with the step's patch on each, at places of their own.

        Raises:
            TrainingError: the pool is empty, or the patch is larger than the images.
        """
        texture, mask = self._pooled(step) if self.wants_pool else self._made(network, batch, step)
        size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
        height, width = int(texture.shape[-2]), int(texture.shape[-1])
        if height > size[0] or width > size[1]:
            raise TrainingError(
                f"{self.title}: expected a patch no larger than the training images of {size[0]} x {size[1]} pixels, "
                f"found {height} x {width}; make it smaller"
            )
        placement = sample_placement(len(batch.labels), size, (height, width), step.draws("place"))
        return paste(batch.images, texture.to(batch.images), mask.to(batch.images), placement)

    def _pooled(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """One texture and mask of the pool, all of them equally likely."""
        ends = list(accumulate(len(patch.textures) for patch in step.pool))
        if not ends:
            raise TrainingError(
                f"{self.title} trains on patches of the suite's pool, and the suite has none. "
                "Add a `pool:` section to the suite, or use patches: on_the_fly"
            )
        drawn = int(torch.randint(ends[-1], (), generator=step.draws("pool")))
        number = next(index for index, end in enumerate(ends) if drawn < end)
        index = drawn - (ends[number - 1] if number else 0)
        patch = step.pool[number]
        return patch.textures[index : index + 1], patch.masks[index : index + 1]

    def _made(self, network: SwitchableNetwork, batch: Batch, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """One texture by sign steps (section 4.1), each at a random active width and random places."""
        draws = step.draws("patch")
        ascent = Ascent(self.size.side(batch.images.shape[-1]), self.steps, self.step_size, step.bits, "nothing")
        labels, sign = batch.labels, 1
        with network.evaluating():
            if self.goal == "targeted":
                with torch.no_grad():
                    classes = network.at(step.bits[0])(batch.images[:1]).shape[1]
                labels = torch.full_like(labels, int(torch.randint(classes, (), generator=draws)))
                sign = -1  # the ascent climbs the cross-entropy of the label; the target's is to fall
            texture = ascended_texture(
                network.at, batch.images, labels, ascent, draws, lambda gradient, bits: sign * gradient
            )
        return texture, torch.ones_like(texture[:, :1])

    def _view(
        self,
        network: SwitchableNetwork,
        bits: Bits,
        batch: Batch,
        layers: tuple[str, ...],
        gradient: bool,
        constant: bool,
    ) -> _View:
        from qpatchbench.ops.training.double_backward_batch_norm import FastSecondDerivative

        images = batch.images.detach().requires_grad_(gradient)
        twice = gradient and not constant
        with FastSecondDerivative() if twice else nullcontext():
            observed = twice or layers  # a compiled answer has no second derivative
            logits, features = network.observed(bits, images, layers) if observed else (network.at(bits)(images), {})
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        maps = {layer: self._maps(features[layer].detach() if constant else features[layer], layer) for layer in layers}
        if not gradient:
            return _View(loss, maps, None)
        # Of the sum, each image's own loss; the loss itself is needed again.
        (of_images,) = torch.autograd.grad(
            loss * len(batch.labels), images, create_graph=not constant, retain_graph=True
        )
        return _View(loss, maps, self._maps(of_images, "the image"))

    def _maps(self, values: torch.Tensor, place: str) -> torch.Tensor:
        if values.dim() != 4:
            raise TrainingError(
                f"{self.title}: expected the features of {place} as maps (B, C, h, w), found "
                f"{tuple(values.shape)}. Choose other `layers`"
            )
        return prepared(values.flatten(0, 1).unsqueeze(1) if self.per_channel else values)
