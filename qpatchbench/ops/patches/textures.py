"""A dictionary of textures per class, made from a dataset's own images and no network at all.

PatchAttack (Yang, Kortylewski, Xie, Cao, Yuille 2020, arXiv 2004.05682) clusters the images of a class by style and
synthesises one texture per cluster, whose style is the cluster's centre (Gatys, Ecker, Bethge 2015, arXiv 1505.07376).
Its style is the Gram matrices of VGG-19's features inside the object that Grad-CAM finds. A pretrained network cannot
be assumed here, and the attacked one must not be looked into, so style is that of a fixed bank of filters on the whole
image: per colour channel a Gaussian blur, what it removes, and its first and second derivatives in four orientations
(Gabor-like), at two scales (the image and its half). Responses are rectified, as by a layer of a network, and divided
by their root mean square over all the images, so that none outweighs the others; a constant channel beside them puts
their means into the Gram matrix.

The synthesis starts at the image nearest to the centre, not at noise as the authors' does: on CIFAR-10 100 steps from
there come closer to the centre than 200 from noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.patches.pasting import round_to_8_bit, to_float
from qpatchbench.types import ImageSet

ORIENTATIONS, RADIUS, SIGMA = 4, 3, 1.0
CHUNK = 2**18  # pixels whose responses are held at once
STEP_SIZE = 0.02  # Adam's, of pixels in [0, 1]
ATTEMPTS = 4  # starts of k-means, of which the best is kept


class Textures(NamedTuple):
    """T textures (T, 3, H, W) float32 in [0, 1] on the 8-bit grid, and the class of each (T,) int64."""

    pixels: torch.Tensor
    classes: torch.Tensor


class Bank(NamedTuple):
    """Filters (F, 1, k, k), and what each rectified response is divided by: (C, 1) for every scale of the image."""

    filters: torch.Tensor
    spreads: tuple[torch.Tensor, ...]


class Clusters(NamedTuple):
    """The mean style (C, D) of each cluster, and which image (C,) is nearest to it."""

    centres: torch.Tensor
    nearest: torch.Tensor


def texture_dictionary(
    images: ImageSet, classes: tuple[int, ...], *, per_class: int, steps: int, generator: torch.Generator
) -> Textures:
    """At most `per_class` textures of each class, of the size of the images; fewer where it has fewer styles.

    Args:
        images: to learn from; all of them decide how the filters are scaled.
        classes: whose textures are wanted.
        per_class: clusters of a class's images.
        steps: of the synthesis, each on many textures at once; 0: textures are the images nearest to the centres.
        generator: for k-means.

    Raises:
        AttackError: a class has no image, or there is no class.
    """
    missing = [class_id for class_id in classes if not bool((images.labels == class_id).any())]
    if missing or not classes:
        raise AttackError(
            f"expected crafting images of class {', '.join(map(str, missing)) or 'any'} to take textures from, "
            f"found none among {len(images)} images; give the suite more of them"
        )
    bank, starts, centres, labels = fitted_bank(images), [], [], []
    for class_id in classes:
        own = images.chosen(images.labels == class_id)
        found = clustered(styles_of(own, bank), per_class, generator)
        starts.append(to_float(own.pixels[found.nearest]))
        centres.append(found.centres)
        labels.append(torch.full_like(found.nearest, class_id))
    return Textures(synthesised(torch.cat(starts), torch.cat(centres), bank, steps=steps), torch.cat(labels))


def cut_out(
    textures: torch.Tensor, which: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, side: int
) -> torch.Tensor:
    """Squares (B, 3, side, side) of textures (T, 3, H, W), each of its own one, with its top-left pixel; (B,) each."""
    along, channels = torch.arange(side, device=textures.device), torch.arange(3, device=textures.device)
    down, right = ((start[:, None] + along) for start in (rows, columns))
    return textures[
        which[:, None, None, None], channels[:, None, None], down[:, None, :, None], right[:, None, None, :]
    ]


def synthesised(start: torch.Tensor, centres: torch.Tensor, bank: Bank, *, steps: int) -> torch.Tensor:
    """Images (T, 3, H, W) on the 8-bit grid whose styles have come close to `centres` (T, D), from `start` by Adam."""
    parts = []
    chunks = _chunked(start)
    for pixels, aims in zip(chunks, torch.split(centres, len(chunks[0])), strict=True):
        texture = pixels.clone().requires_grad_()
        optimizer = torch.optim.Adam([texture], lr=STEP_SIZE)
        for _ in range(steps):
            loss = (style(texture, bank) - aims).square().sum()
            (texture.grad,) = torch.autograd.grad(loss, texture)
            optimizer.step()
            with torch.no_grad():
                texture.clamp_(0, 1)
        parts.append(round_to_8_bit(texture.detach()))
    return torch.cat(parts)


def clustered(styles: torch.Tensor, count: int, generator: torch.Generator) -> Clusters:
    """At most `count` clusters of styles (N, D) by k-means; fewer where fewer styles differ."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    count = min(count, len(torch.unique(styles, dim=0)))
    found = KMeans(count, n_init=ATTEMPTS, random_state=seed).fit_predict(styles.double().cpu().numpy())
    members = torch.from_numpy(found).to(styles.device).long() == torch.arange(count, device=styles.device).view(-1, 1)
    centres = torch.stack([styles[own].mean(dim=0) for own in members])
    nearest = torch.cdist(centres.double(), styles.double()).masked_fill(~members, torch.inf).argmin(dim=1)
    return Clusters(centres, nearest)


def fitted_bank(images: ImageSet) -> Bank:
    """The filters, with the root mean square of every response over the images; 1 where there is no response at all."""
    filters = oriented_filters().to(images.pixels.device)
    squares = [filters.new_zeros(1)] * 2
    for pixels in _chunked(images.pixels):
        for scale, responses in enumerate(_responses(to_float(pixels), filters)):
            squares[scale] = squares[scale] + responses.square().mean(dim=2).sum(dim=0)
    spreads = [(total / len(images)).sqrt().view(-1, 1) for total in squares]
    return Bank(filters, tuple(torch.where(spread > 0, spread, 1.0) for spread in spreads))


def styles_of(images: ImageSet, bank: Bank) -> torch.Tensor:
    """Styles (N, D) of images."""
    with torch.no_grad():
        return torch.cat([style(to_float(pixels), bank) for pixels in _chunked(images.pixels)])


def style(images: torch.Tensor, bank: Bank) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] -> (B, D): the Gram matrices of the divided responses at every scale."""
    grams = []
    for responses, spread in zip(_responses(images, bank.filters), bank.spreads, strict=True):
        features = torch.nn.functional.pad(responses / spread, (0, 0, 0, 1), value=1.0)  # the constant channel
        grams.append((features @ features.mT / features.shape[2]).flatten(1))
    return torch.cat(grams, dim=1)


def oriented_filters() -> torch.Tensor:
    """(2 + 2 * ORIENTATIONS, 1, k, k): a blur of sum 1; what it removes, and its derivatives, each of sum 0."""
    along = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float32) / SIGMA
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    blur = torch.exp(-(rows.square() + columns.square()) / 2)
    blur = blur / blur.sum()
    rest = -blur
    rest[RADIUS, RADIUS] += 1
    angles = [math.pi * step / ORIENTATIONS for step in range(ORIENTATIONS)]
    across = [math.cos(angle) * columns + math.sin(angle) * rows for angle in angles]
    derivatives = [part * blur for away in across for part in (away, away.square() - 1)]
    return torch.stack([blur, rest, *(filter_ - filter_.mean() for filter_ in derivatives)]).unsqueeze(1)


def _responses(images: torch.Tensor, filters: torch.Tensor) -> list[torch.Tensor]:
    """Images (B, 3, H, W) -> per scale (B, C, pixels), not negative: blurs, then both signs of the others."""
    scales = []
    for scaled in (images, torch.nn.functional.avg_pool2d(images, 2, ceil_mode=True)):
        batch, channels = scaled.shape[:2]
        padded = torch.nn.functional.pad(scaled, (RADIUS,) * 4, mode="replicate")
        found = torch.nn.functional.conv2d(padded.flatten(0, 1).unsqueeze(1), filters)
        found = found.view(batch, channels, len(filters), -1)
        signed = found[:, :, 1:]
        scales.append(torch.cat((found[:, :, :1], signed.relu(), (-signed).relu()), dim=2).flatten(1, 2))
    return scales


def _chunked(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Images in parts whose responses fit in memory."""
    return torch.split(images, max(1, CHUNK // images[0, 0].numel()))
