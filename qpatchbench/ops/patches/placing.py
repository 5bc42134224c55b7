"""Random places: uniform over every position that keeps a patch inside the image, last row and column included."""

from __future__ import annotations

import torch

from qpatchbench.types import Placement, Transformation


def sample_placement(
    count: int,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    generator: torch.Generator,
    *,
    rotation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Placement:
    """Draw `count` independent placements on the CPU.

    Row, column, angle and scale are independent and uniform; angles in [-rotation, rotation] degrees.
    The draw is made in [0, 1) and then scaled to the positions available, so patches of different sizes
    that share a generator state lie in corresponding places (a paired design).

    Args:
        count: number of images.
        image_size: (height, width), pixels.
        patch_size: (height, width), pixels; not larger than the image.
        generator: CPU generator.
        rotation: largest absolute angle, degrees.
        scale: smallest and largest scale factor.
    """
    uniform = torch.rand(4, count, generator=generator, dtype=torch.float64)
    rows, columns = ((uniform[axis] * (image_size[axis] - patch_size[axis] + 1)).floor().long() for axis in (0, 1))
    angles = (2 * uniform[2] - 1) * rotation
    scales = scale[0] + uniform[3] * (scale[1] - scale[0])
    return Placement(rows, columns, angles.float(), scales.float(), upright=not rotation and scale == (1, 1))


def moved(
    placement: Placement, by: Transformation, patch_size: tuple[int, int], image_size: tuple[int, int]
) -> Placement:
    """Shift and turn placements; a shift past the last position that keeps the patch inside starts at the first again.

    Wrapping keeps uniform places uniform, where stopping at the border would pile patches up along it.
    """
    rows, columns = (
        (start + shift) % (image_size[axis] - patch_size[axis] + 1)
        for axis, (start, shift) in enumerate(((placement.rows, by.rows), (placement.columns, by.columns)))
    )
    return Placement(
        rows, columns, placement.angles + by.angle, placement.scales, upright=placement.upright and not by.angle
    )
