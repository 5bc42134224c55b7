"""Fingerprints of networks and images that jobs share, to see whether one of them changed what all use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

from qpatchbench.types import ImageSet, Randomized

_PLAIN = (bool, int, float, str, type(None))


def network_fingerprint(network: torch.nn.Module) -> dict[str, str]:
    """Part of a network -> hash of it: every parameter and buffer, persistent or not, and each module's own state.

    A module's state is its class, mode, hooks, plain attributes and a `forward` that was put on it. Attributes of a
    network that draws at random are its own business: its draws start anew in every job.
    """
    return dict(_parts(network))


def images_fingerprint(images: ImageSet) -> str:
    """Hash of pixels and labels."""
    return _hash(images.pixels) + _hash(images.labels)


def _parts(network: torch.nn.Module) -> Iterator[tuple[str, str]]:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        yield name, f"{_hash(tensor)} {tensor.requires_grad}"
    for name, module in network.named_modules():
        yield f"module {name or '(the whole)'}", _module_state(module)


def _module_state(module: torch.nn.Module) -> str:
    hooks = [len(getattr(module, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
    drawn = isinstance(module, Randomized)
    attributes = {
        name: repr(value)
        for name, value in vars(module).items()
        if not drawn and name != "training" and not name.startswith("_") and _is_plain(value)
    }
    own = id(vars(module)["forward"]) if "forward" in vars(module) else None
    return repr((type(module).__qualname__, module.training, hooks, own, sorted(attributes.items())))


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | list) and all(map(_is_plain, value)))


def _hash(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
