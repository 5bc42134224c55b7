"""Bytes of live tensors, by hand."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.suite.needs.live_tensors import LiveTensors

MEGABYTE = 2**20


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_operators_make_counts_until_it_is_forgotten(device: str) -> None:
    images = torch.zeros(MEGABYTE // 4, device=device)
    with LiveTensors() as counted:
        first = images + 1
        second = first.view(2, -1).t()
        assert counted.held == MEGABYTE
        third = second.contiguous()
        third.mul_(2)
        assert counted.held == 2 * MEGABYTE
        del first, second
        assert counted.held == MEGABYTE
        del third
    assert counted.held == 0
    assert counted.most == 2 * MEGABYTE


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_autograd_keeps_is_alive_until_the_backward_pass(device: str) -> None:
    images = torch.zeros(MEGABYTE // 4, device=device, requires_grad=True)
    with LiveTensors() as counted:
        loss = images.exp().exp().sum()  # each keeps what it gives
        assert counted.held == 2 * MEGABYTE + loss.nbytes
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert images.grad is not None
        assert counted.held == images.grad.nbytes + loss.nbytes
    assert counted.most >= 3 * MEGABYTE
