"""A commented suite for the network that somebody has: a model by name, or a function in a Python file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

TEMPLATE = Path(__file__).parent / "shared" / "network_suite.yaml.template"
LARGE = ("imagenet", "imagefolder")  # datasets whose patches are large


@dataclass(frozen=True)
class OwnNetwork:
    """What is known of a network.

    Attributes:
        model: a registered name, or file.py:function.
        weights: a file, or another word that `weights` takes; "" leaves the suite to train it.
        dataset: name of a dataset.
        mean, std: per channel, of a network in a file of one's own; none: pixels as they are.
        image_size: side that it works at, pixels; None: the dataset's.
    """

    model: str
    weights: str = ""
    dataset: str = "cifar10"
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    image_size: int | None = None

    @property
    def fields(self) -> dict[str, object]:
        """The model as a suite writes it."""
        own = {"name": "module", "source": self.model} if ".py:" in self.model else {"name": self.model}
        more = {"weights": self.weights, "mean": [*self.mean], "std": [*self.std], "image_size": self.image_size}
        return {**own, **{name: value for name, value in more.items() if value}}


def own_suite(name: str, network: OwnNetwork) -> str:
    """The text of a suite that crafts on a network's 32 bits and on its 8, and measures both at 32, 8 and 4.

    Args:
        name: of the suite, and of its folder of results.
        network: what is attacked.
    """
    large = network.dataset in LARGE
    words = {
        "name": name,
        "dataset": _line({"name": network.dataset, **({"calibration_images": 100} if large else {})}),
        "model": _line(network.fields),
        "training": "# Its weights are read, so nothing is trained.\n" if network.weights else TRAINING,
        "size": "50" if large else "6",
        "images": "500" if large else "1000",
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(words)


TRAINING = "# No weights are given, so it is trained first; weights: FILE in the line above reads yours.\n"


def _line(fields: dict[str, object]) -> str:
    return yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=1000).strip()
