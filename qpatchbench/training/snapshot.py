"""The state of a training, as tensors and JSON only: nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from qpatchbench.ops.devices import restore_draws, states_of_draws


@dataclass(frozen=True)
class Running:
    """Where an epoch stands that is not finished.

    Attributes:
        steps: finished steps of it.
        seconds: wall time spent on it.
        sums: every loss term, summed over its steps.
        draws: state of the epoch's generator.
        dropout: state of torch's global generator, and of the device's where it has one.
    """

    steps: int
    seconds: float
    sums: Mapping[str, float]
    draws: torch.Tensor
    dropout: tuple[torch.Tensor, ...]

    @classmethod
    def of(
        cls, steps: int, seconds: float, sums: Mapping[str, float], draws: torch.Generator, device: torch.device
    ) -> Running:
        """Take the state of both generators."""
        return cls(steps, seconds, dict(sums), draws.get_state(), states_of_draws(device))

    def restore_draws(self, draws: torch.Generator, device: torch.device) -> None:
        """Put both generators where they were."""
        draws.set_state(self.draws)
        restore_draws(self.dropout, device)


@dataclass(frozen=True)
class Snapshot:
    """Weights, momentum and how far the training is.

    Attributes:
        tensors: "module/<name>" and "momentum/<parameter index>" to CPU tensors.
        epochs: finished epochs.
        log: one JSON-ready dict per finished epoch of this process.
        running: the epoch that is not finished, or None.
    """

    tensors: Mapping[str, torch.Tensor]
    epochs: int
    log: tuple[Mapping[str, Any], ...] = ()
    running: Running | None = None

    @classmethod
    def of(
        cls,
        module: torch.nn.Module,
        optimizer: torch.optim.SGD,
        epochs: int,
        log: Any,  # noqa: ANN401 (the loop's EpochLog, which is defined above this module)
        running: Running | None = None,
    ) -> Snapshot:
        """Copy the state of a module and its optimiser to the CPU."""
        tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
        for index, parameter in enumerate(_parameters(optimizer)):
            momentum = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
            if momentum is not None:
                tensors[f"momentum/{index}"] = momentum
        copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        return cls(copies, epochs, () if log is None else (asdict(log),), running)

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

    def stored(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-ready facts from which `read` makes it again."""
        if self.running is None:
            return dict(self.tensors), {}
        tensors = {**self.tensors, "generator/draws": self.running.draws}
        tensors |= {f"generator/dropout/{index}": state for index, state in enumerate(self.running.dropout)}
        facts = {"steps": self.running.steps, "seconds": self.running.seconds, "sums": dict(self.running.sums)}
        return tensors, {"running": facts}

    @classmethod
    def read(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], epochs: int) -> Snapshot:
        """Invert `stored`; `facts` also hold the log of all finished epochs."""
        own = {name: value for name, value in tensors.items() if not name.startswith("generator/")}
        running = None
        if "running" in facts:
            dropout = tuple(tensors[name] for name in sorted(tensors) if name.startswith("generator/dropout/"))
            running = Running(**facts["running"], draws=tensors["generator/draws"], dropout=dropout)
        return cls(own, epochs, tuple(facts["log"]), running)


def _parameters(optimizer: torch.optim.SGD) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
