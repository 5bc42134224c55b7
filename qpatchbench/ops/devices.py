"""Accelerators: their random draws, their names, and waiting for what they were asked to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def forked_draws(device: torch.device) -> Iterator[None]:
    """Global random draws of the CPU and of `device` are inside what they will be, and afterwards what they were."""
    before = states_of_draws(device)
    try:
        yield
    finally:
        restore_draws(before, device)


def states_of_draws(device: torch.device) -> tuple[torch.Tensor, ...]:
    """State of the CPU's global generator, and of the one that `device` has if it is not the CPU; uint8 each."""
    own = () if device.type == "cpu" else (torch.get_device_module(device).get_rng_state(*_where(device)),)
    return (torch.get_rng_state(), *own)


def restore_draws(states: Sequence[torch.Tensor], device: torch.device) -> None:
    """Invert `states_of_draws`; a state taken on the CPU alone leaves the device's generator as it is."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], *_where(device))


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def name_of(device: torch.device) -> str:
    """What the maker calls the accelerator; its type where nobody says."""
    names = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(names(*_where(device))) if names is not None else device.type


def _where(device: torch.device) -> tuple[Any, ...]:
    # Apple's GPU is the only one of its machine, and its functions take no device.
    return () if device.type == "mps" else (device,)
