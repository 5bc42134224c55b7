"""Where a training run stands after an epoch, as tensors and JSON only: nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Snapshot:
    """Weights, momentum and the number of finished epochs.

    Attributes:
        tensors: "module/<name>" and "momentum/<parameter index>" to CPU tensors.
        epochs: finished epochs.
        log: one JSON-ready dict per finished epoch of this process.
    """

    tensors: Mapping[str, torch.Tensor]
    epochs: int
    log: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, module: torch.nn.Module, optimizer: torch.optim.SGD, epochs: int, log: Any) -> Snapshot:  # noqa: ANN401
        """Copy the state of a module and its optimiser to the CPU."""
        tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
        for index, parameter in enumerate(_parameters(optimizer)):
            momentum = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
            if momentum is not None:
                tensors[f"momentum/{index}"] = momentum
        copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        entry = {"epoch": log.epoch, "losses": dict(log.losses), "seconds": log.seconds}
        return cls(copies, epochs, (entry,))

    def restore(self, module: torch.nn.Module, optimizer: torch.optim.SGD) -> None:
        """Put the state back into a module and optimiser of the same shape."""
        prefix = "module/"
        module.load_state_dict(
            {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}
        )
        for index, parameter in enumerate(_parameters(optimizer)):
            momentum = self.tensors.get(f"momentum/{index}")
            if momentum is not None:
                optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device, copy=True)


def _parameters(optimizer: torch.optim.SGD) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
