"""A network with a preprocessor before it, and what attacks follow where that draws at random or has no gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.crafting.bpda import with_gradient_of
from qpatchbench.ops.mean_prediction import log_mean_probability
from qpatchbench.ops.randomness import derive_seed
from qpatchbench.preprocessors.base import DRAWS, Preprocessor
from qpatchbench.types import Network, Randomized

Seen: TypeAlias = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
Answer: TypeAlias = Callable[[Network, torch.Tensor], torch.Tensor]


def preprocessed(
    network: nn.Module, preprocessor: Preprocessor, state: Mapping[str, torch.Tensor]
) -> PreprocessedNetwork:
    """A network that answers to the preprocessed images.

    Args:
        network: frozen; one with an attribute `expected` lends it to the whole.
        preprocessor: what the images pass first.
        state: what its `fit` returned.
    """
    kind = RandomPreprocessedNetwork if preprocessor.randomized or hasattr(network, "expected") else PreprocessedNetwork
    return kind(network, preprocessor, state)


class PreprocessedNetwork(nn.Module):
    """images (B, 3, H, W) float32 in [0, 1] -> logits (B, K) of the network on the preprocessed images.

    Where the preprocessor has no useful gradient, it has that of the identity: BPDA (Athalye et al. 2018,
    arXiv 1802.00420, section 4.1).
    """

    def __init__(self, network: nn.Module, preprocessor: Preprocessor, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.preprocessor = preprocessor
        self.generator = torch.Generator().manual_seed(0)
        self._names = tuple(state)
        for place, tensor in enumerate(state.values()):  # by place: the name of a buffer may have no dot
            self.register_buffer(f"state{place}", tensor)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, K)."""
        return self.answer(self.network, self.seen(images, self.generator))

    def answer(self, network: Network, seen: torch.Tensor) -> torch.Tensor:
        """What the preprocessor makes of a network's answers to what is seen, (B, 3, H, W) -> (B, K)."""
        return self.preprocessor.answer(network, seen, self._state())

    def compiled_by(self, compiler: Callable[[Network], Network]) -> Network:
        """The same with its network compiled; what a preprocessor does may be any code."""
        network = compiler(self.network)
        return lambda images: self.answer(network, self.seen(images, self.generator))

    def certified(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
        """Which images (B, 3, H, W) no patch of the certified side can turn from their labels (B,); (B,) bool.

        None where the preprocessor certifies nothing, or stands before a network that draws at random.
        """
        if self.preprocessor.certified_side(images.shape[-1]) is None or isinstance(self, RandomPreprocessedNetwork):
            return None
        return self.preprocessor.certified(self.network, images, labels, self._state())

    def seen(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What the network sees, with a gradient that an attack can follow.

        Raises:
            QPatchBenchError: the preprocessor returned images of another shape or type.
        """

        def apply(images: torch.Tensor) -> torch.Tensor:
            found = self.preprocessor.apply(images, self._state(), generator)
            if found.shape != images.shape or found.dtype != images.dtype:
                raise QPatchBenchError(
                    f"{self.preprocessor.title}: expected {_described(images)} back, found {_described(found)}"
                )
            return found

        return apply(images) if self.preprocessor.differentiable else with_gradient_of(apply, _identity)(images)

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: self.get_buffer(f"state{place}") for place, name in enumerate(self._names)}


class RandomPreprocessedNetwork(PreprocessedNetwork):
    """One of which the preprocessor or the network draws at random."""

    def __init__(self, network: nn.Module, preprocessor: Preprocessor, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__(network, preprocessor, state)
        self._seed = 0

    @property
    def expected(self) -> AveragedNetwork:
        """What it answers on average, over DRAWS draws of the preprocessor."""
        answer = getattr(self.network, "expected", self.network)
        draws = DRAWS if self.preprocessor.randomized else 1
        return AveragedNetwork(self.seen, self.answer, answer, draws, derive_seed(self._seed, "expected"))

    def restart(self, seed: int) -> None:
        """Draw from here on as `seed` says."""
        self._seed = seed
        self.generator.manual_seed(derive_seed(seed, "preprocessor"))
        if isinstance(self.network, Randomized):
            self.network.restart(derive_seed(seed, "network"))


class AveragedNetwork(nn.Module):
    """Expectation over transformations (Athalye et al. 2018, arXiv 1707.07397), by a fixed number of draws.

    Where a gradient is asked for, every call draws anew, so that no attack adapts to particular draws. Where none is,
    all calls draw the same: what is only compared is compared on equal terms.

    Args:
        seen: images and a generator -> what the network sees.
        answer: the network and what it sees -> logits.
        network: does not draw.
        draws: to average over.
        seed: of the draws.
    """

    def __init__(self, seen: Seen, answer: Answer, network: Network, draws: int, seed: int) -> None:
        super().__init__()
        self._seen, self._draws, self._seed = seen, draws, seed
        self._answer = answer, network  # in a tuple a network is no part of this one, and stays where it is
        self._generator = torch.Generator().manual_seed(seed)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> log-probabilities (B, K) float32; of a single draw, its logits."""
        generator = self._generator if torch.is_grad_enabled() else torch.Generator().manual_seed(self._seed)
        answer, network = self._answer
        logits = [answer(network, self._seen(images, generator)) for _ in range(self._draws)]
        return logits[0] if len(logits) == 1 else log_mean_probability(torch.stack(logits))

    def compiled_by(self, compiler: Callable[[Network], Network]) -> Network:
        """The same, drawing as from the start, with its network compiled."""
        answer, network = self._answer
        return AveragedNetwork(self._seen, answer, compiler(network), self._draws, self._seed)


def _identity(images: torch.Tensor) -> torch.Tensor:
    return images


def _described(images: torch.Tensor) -> str:
    shape = ", ".join(map(str, images.shape))
    return f"images ({shape}) {str(images.dtype).removeprefix('torch.')}"
