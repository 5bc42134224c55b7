"""Networks that no quantizer here reaches: refused before anything is trained, with what is out of reach by name."""

from __future__ import annotations

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.frozen.attention_biases import call_projections
from qpatchbench.quantizers.inspection.audit_layers import operations
from qpatchbench.quantizers.trained.layers import quantizable

LEAST = 0.5  # share of the multiply-accumulates that must be those of layers that can be quantized
_NAMED = 3


def require_reachable(network: nn.Module, images: torch.Tensor, who: str) -> None:
    """Refuse a float network that multiplies by weights where no quantizer sees it.

    Args:
        network: float; its attention projections are made layers that are called, as deployment does.
        images: (N, 3, H, W); one is enough.
        who: how messages call it.

    Raises:
        QPatchBenchError: an operator outside of all layers multiplies by weights, or most multiply-accumulates are
            those of layers of other types than nn.Conv2d and nn.Linear.
    """
    call_projections(network)
    rows = operations(network, images)
    layers = {name for name, _ in quantizable(network)}
    total = sum(row.multiplications for row in rows)
    outside = [row for row in rows if not row.is_layer]
    unreached = [row for row in rows if row.name not in layers and row.multiplications]
    share = sum(row.multiplications for row in unreached) / max(1, total)
    if total and not outside and share <= 1 - LEAST:
        return
    reason = "nothing in it multiplies by weights"
    if total:
        names = ", ".join(row.name for row in unreached[:_NAMED])
        more = f" and {len(unreached) - _NAMED} more" if len(unreached) > _NAMED else ""
        reason = f"{_percent(share)} of its multiply-accumulates would stay in float: {names}{more}"
    raise QPatchBenchError(
        f"{who} cannot be quantized: {reason}. Quantizers reach nn.Conv2d and nn.Linear layers that the network calls; "
        "use another model, or the quantizer fp alone"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.01 else 2}f} %"
