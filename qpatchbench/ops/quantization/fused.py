"""Straight-through rounding on CUDA in one kernel each way; `straight_through` has the same arithmetic in steps.

A quantizer of a small network is bound by the number of its kernels, not by what they compute: five forwards and ten
backwards became one and two. Only for float32 on CUDA, and only where nobody differentiates the gradient again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch.cuda import jiterator

# Clipping precedes rounding: both limits are integers, so that either order gives the same code.
_ON_GRID = """
template <typename T> T on_grid(T value, T scale, T qmin, T qmax) {
    T code = value * (T(1) / scale);
    code = code < qmin ? qmin : (code > qmax ? qmax : code);
    return rint(code) * scale;
}
"""
_PASSED = """
template <typename T> T passed(T gradient, T value, T scale, T low, T high) {
    T code = rint(value * (T(1) / scale));
    return code <= low || code >= high ? T(0) : gradient;
}
"""
_KEPT = """
template <typename T> T kept(T gradient, T value, T scale, T qmin, T qmax) {
    T step = value * (T(1) / scale);
    return step <= qmin || step >= qmax ? T(0) : gradient;
}
"""
_PULLED = """
template <typename T> void pulled(
    T gradient, T value, T scale, T qmin, T qmax, T factor, T& inside, T& pull
) {
    T step = value * (T(1) / scale);
    T code = step < qmin ? qmin : (step > qmax ? qmax : step);
    inside = step <= qmin || step >= qmax ? T(0) : gradient;
    pull = (gradient * rint(code) - inside * step) * factor;
}
"""


def fits(values: torch.Tensor) -> bool:
    """Whether values are where these kernels run; a compiler fuses the steps by itself."""
    return values.is_cuda and values.dtype == torch.float32 and not torch.compiler.is_compiling()


def on_grid(values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """Values rounded to the grid; arguments as in `FixedScale`."""
    return cast(torch.Tensor, _kernel(_ON_GRID, ("qmin", "qmax"))(values, scale, qmin=float(qmin), qmax=float(qmax)))


def passed(gradient: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The gradient where the code lies strictly between two limits, else 0."""
    return cast(torch.Tensor, _kernel(_PASSED, ("low", "high"))(gradient, values, scale, low=low, high=high))


def kept(gradient: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """The gradient where the value lies strictly between the outermost points, else 0."""
    kernel = _kernel(_KEPT, ("qmin", "qmax"))
    return cast(torch.Tensor, kernel(gradient, values, scale, qmin=float(qmin), qmax=float(qmax)))


def pulled(
    gradient: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of values, and that of the scale before it is summed, of the shape of values."""
    kernel = _kernel(_PULLED, ("qmin", "qmax", "factor"), outputs=2)
    inside, pull = kernel(gradient, values, scale, qmin=float(qmin), qmax=float(qmax), factor=factor)
    return inside, pull


@cache
def _kernel(code: str, numbers: tuple[str, ...], outputs: int = 1) -> Callable[..., Any]:
    given = dict.fromkeys(numbers, 0.0)
    if outputs == 1:
        return jiterator._create_jit_fn(code, **given)
    return jiterator._create_multi_output_jit_fn(code, outputs, **given)
