"""A network whose operators a compiler fuses, forwards and backwards: `torch.compile`, set for what runs here.

A fake quantizer is five operators forwards and three backwards, each of which reads and writes a whole tensor; fused
with its neighbours it is part of one pass over memory. What is computed is the same but for rounding.
"""

from __future__ import annotations

import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.types import Network

# A graph for each bit-width, mode and shape of one architecture. What comes after that is not compiled.
GRAPHS = 64
# Below 1 a backward pass recomputes masks of clipping and of ReLU instead of reading them. A CPU's compiled code stores
# such masks value by value: with them a W4A4 ResNet-20 took twice the time of its plain operators, without them less.
STORED_MASKS = {"cpu": 0.9}


def compiled(network: Network) -> Network:
    """The network with its operators fused; the first call in each mode, at each bit-width and shape compiles.

    Its gradient cannot be differentiated again, and hooks that are added later are not called. Where no gradient is
    asked for it answers uncompiled: there batches come in any number of images, each of which would be compiled anew.

    Args:
        network: images (B, 3, H, W) -> logits (B, K); a method `compiled_by` of it says what of it to compile.

    Raises:
        QPatchBenchError: when called, where nothing can compile: a CPU wants a C++ compiler.
    """
    if hasattr(network, "compiled_by"):
        within: Network = network.compiled_by(compiled)
        return within
    fused = torch.compile(network, dynamic=False)

    def answer(images: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return network(images)
        budget = STORED_MASKS.get(images.device.type, 1.0)
        with (
            torch.compiler.config.patch(recompile_limit=GRAPHS),  # type: ignore[attr-defined]  # modules that replace
            torch._functorch.config.patch(activation_memory_budget=budget),
            torch._inductor.config.patch(compile_threads=torch.get_num_threads()),  # a worker has only its share
        ):
            try:
                logits: torch.Tensor = fused(images)
            except torch._dynamo.exc.BackendCompilerFailed as error:
                raise QPatchBenchError(
                    f"compile: true found nothing that compiles for {images.device.type}: expected a C++ compiler such "
                    f"as g++ on a CPU, and Triton on a GPU, found {error.inner_exception}"
                ) from error
        return logits

    return answer
