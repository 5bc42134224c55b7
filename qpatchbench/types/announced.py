"""Facts about images that a suite states before any is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Announced:
    """What a component may depend on, known while a suite is checked.

    Attributes:
        side: of the square images, pixels.
        classes: how many there are.
        calibration: images held out for calibration.
        craft: images that patches are crafted on; at most so many.
    """

    side: int
    classes: int
    calibration: int
    craft: int
