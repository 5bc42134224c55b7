"""The quantizer of a file that is deployed already: nothing is quantized here, its runtime answers."""

from __future__ import annotations

import torch
from pydantic import Field

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.types import Bits

DIGEST = "digest"


class Given(Quantizer):
    """Deploys a network that is deployed already, as its file has it; the model, and no suite, asks for it."""

    runtime: str = Field(description="what answers, with the processor that it runs on")
    release: str = Field(description="version of the runtime")

    @property
    def mode(self) -> str:
        """The runtime: `onnxruntime-cpu`."""
        return self.runtime

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The network of the file.

        Raises:
            QPatchBenchError: the file was changed since its checkpoint was made.
        """
        network = checkpoint.build().eval()
        if not torch.equal(network.state_dict()[DIGEST], checkpoint.state[DIGEST]):
            raise QPatchBenchError("the file was changed while the run went on; run the same command again")
        return network
