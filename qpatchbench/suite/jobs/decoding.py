"""The crop of image files that a model wants."""

from __future__ import annotations

from qpatchbench.data.base import Decoding
from qpatchbench.models.base import ModelSource
from qpatchbench.suite.file.schema import Suite


def decoding_for(model: ModelSource, suite: Suite) -> Decoding:
    """That of the model, or of the sibling of one that is deployed already: both see the same pixels."""
    sibling = model.ready.sibling if model.ready else None
    return decoding_of(next((other for other in suite.models if other.title == sibling), model), suite.dataset.side)


def decoding_of(model: ModelSource, side: int) -> Decoding:
    """The model's own crop, interpolation and border; models of fixed-size datasets all share the default."""
    if not model.image_model:
        return Decoding()
    wanted = model.preprocessing(side)
    fill = tuple(round(255 * value) for value in wanted.mean) if wanted.crop_mode == "border" else Decoding().fill
    return Decoding(wanted.crop_fraction, wanted.interpolation, wanted.crop_mode, fill)
