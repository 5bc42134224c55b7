"""A network of somebody's own as it comes: a source file, a module beside it, a checkpoint of a wrapped network."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

BLOCKS = """
import torch


class Block(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))
"""
NETWORK = """
import torch

from blocks import Block


class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = torch.nn.Sequential(Block(3, 8), torch.nn.MaxPool2d(2), Block(8, 16))
        self.head = torch.nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))


def build(num_classes=10):
    return Net(num_classes)
"""


def own_network(folder: Path, classes: int) -> None:
    """Write my_net.py, blocks.py and my.pt, whose names all begin with `module.`, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blocks.py").write_text(BLOCKS)
    (folder / "my_net.py").write_text(NETWORK)
    scope = runpy.run_path(str(folder / "blocks.py"))
    names = {"Block": scope["Block"]}
    exec(NETWORK.replace("from blocks import Block\n", ""), names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = names["build"](classes)
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"net": wrapped, "acc": 93.1, "epoch": 199}, folder / "my.pt")
