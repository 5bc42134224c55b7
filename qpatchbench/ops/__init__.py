"""Pure tensor functions: no files, no classes with state, no randomness but a passed generator.

What plugins use most can be imported from here, wherever it lies; it is looked up at its first use, since torch takes
seconds to load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qpatchbench.ops.crafting.loops import goal_by_goal, universal_patches
    from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes
    from qpatchbench.ops.patches.pasting import paste, to_float, to_uint8
    from qpatchbench.ops.patches.placing import sample_placement
    from qpatchbench.ops.quantization.fake_quantization import code_range, fake_quantize, max_scale, mse_scale

_MODULES = {
    "crafting.loops": ("goal_by_goal", "universal_patches"),
    "crafting.losses": ("cross_entropy", "goal_classes"),
    "patches.pasting": ("paste", "to_float", "to_uint8"),
    "patches.placing": ("sample_placement",),
    "quantization.fake_quantization": ("code_range", "fake_quantize", "max_scale", "mse_scale"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "code_range",
    "cross_entropy",
    "fake_quantize",
    "goal_by_goal",
    "goal_classes",
    "max_scale",
    "mse_scale",
    "paste",
    "sample_placement",
    "to_float",
    "to_uint8",
    "universal_patches",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any of the functions above)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
