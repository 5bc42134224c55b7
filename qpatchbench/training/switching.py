"""A network under training, as a defense sees it: one forward function that answers at several bit-widths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from qpatchbench.errors import TrainingError
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.taps import Taps
from qpatchbench.types import FLOAT, Bits, Network, Observed

if TYPE_CHECKING:
    from qpatchbench.quantizers.trained.constant import Absorbed


class Switch:
    """Implements `defenses.base.SwitchableNetwork`.

    Args:
        module: the network, prepared with quantizers or not.
        forward: what runs it, for example the module as mixed precision wraps it.
        quantized: whether it has quantizers.
        example: images (B, 3, H, W) in [0, 1], which tell the BatchNorms that can be folded where parameters are
            constants; None folds none.
        hooked: what runs it where it is observed, if `forward` is compiled: that calls no hooks, and its gradient
            cannot be differentiated again.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Network,
        quantized: bool,
        example: torch.Tensor | None = None,
        hooked: Network | None = None,
    ) -> None:
        self.module, self.forward, self.quantized = module, forward, quantized
        self.hooked = hooked or forward
        self.taps = Taps(module)
        self.example = example if quantized else None
        self._absorbed: Absorbed | None = None

    def at(self, bits: Bits) -> Network:
        """The network at `bits`.

        Raises:
            TrainingError: a float network is asked for other bits than 32.
        """
        if self.quantized:
            from qpatchbench.quantizers.trained.switchable import set_bits

            set_bits(self.module, bits)
        elif bits != FLOAT:
            raise TrainingError(f"a float network has no quantizers for {bits} bits")
        return self.forward

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode inside, where parameters are constants."""
        from qpatchbench.quantizers.trained.constant import absorbable, constant

        if self._absorbed is None:
            self._absorbed = () if self.example is None else absorbable(self.module, self.example)
        with evaluating(self.module), constant(self.module, self._absorbed):
            yield

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Logits at `bits` and what is handed on by `layers`: see `Taps.observed`."""
        self.at(bits)  # sets them, or refuses
        return self.taps.observed(self.hooked, images, layers)

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """Layers whose features are compared where a defense names none: see `Taps.early_layers`."""
        return self.taps.early_layers(images)
