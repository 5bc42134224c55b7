"""Inference-time defenses on the input image. None is built in; plugins register theirs here."""

from qpatchbench.registry import Entry

CATALOGUE: dict[str, Entry] = {}
