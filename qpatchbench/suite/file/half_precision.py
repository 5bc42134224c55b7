"""Grids that are finer than bfloat16: arithmetic in it would give other levels than those that are deployed."""

from __future__ import annotations

from collections.abc import Iterator

from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import KeyPath
from qpatchbench.types import FLOAT_BITS, HALF, Bits

HALF_BITS = 8  # significant ones of bfloat16


def half_precision_problems(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Yield (path in the file, problem) for every computation in bfloat16 on a grid of more than 8 bits.

    bfloat16 has 8 significant bits: of the 4,096 levels of 12 bits it keeps 769.
    """
    fine = {
        bits for quantizer in suite.quantizers for bits in quantizer.bits if max(_of_grids(bits), default=0) > HALF_BITS
    }
    trained = {bits for quantizer in suite.quantizers if quantizer.trained for bits in quantizer.bits} & fine
    section = "finetuning" if suite.finetuning is not None else "training"
    settings = suite.finetuning or suite.training
    if settings.precision == HALF and trained and any(defense.quantization_aware for defense in suite.defenses):
        yield (section, "precision"), _collapses("networks are trained", trained)
    everywhere = {"same", "all", "ensemble"} & set(suite.transfer.sources)
    crafted = fine if everywhere else fine & set(suite.transfer.sources)
    for index, attack in enumerate(suite.attacks):
        if getattr(attack, "precision", None) == HALF and crafted:
            yield ("attacks", index, "precision"), _collapses("patches are crafted", crafted)
    if suite.pool is not None:
        unseen = {bits for bits in suite.pool.unseen_bits if max(_of_grids(bits), default=0) > HALF_BITS}
        for index, attack in enumerate(suite.pool.unseen):
            if getattr(attack, "precision", None) == HALF and unseen:
                yield ("pool", "unseen", index, "precision"), _collapses("patches are crafted", unseen)


def _of_grids(bits: Bits) -> list[int]:
    return [own for own in (bits.weight, bits.activation) if own != FLOAT_BITS]


def _collapses(what: str, bits: set[Bits]) -> str:
    listed = ", ".join(map(str, sorted(bits)))
    return (
        f"expected 32-true, since {what} at {listed} bits, whose levels {HALF} cannot tell apart (it has {HALF_BITS} "
        f"significant bits), found {HALF}"
    )
