"""Generators derived from (seed, role): two roles never share a stream, and no global generator is used."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *role: object) -> int:
    """A 63-bit seed that depends on every part of the role."""
    text = "/".join(str(part) for part in (seed, *role))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive_generator(seed: int, *role: object) -> torch.Generator:
    """A CPU generator for one role; draws are made on the CPU so that every device sees the same ones."""
    return torch.Generator().manual_seed(derive_seed(seed, *role))
