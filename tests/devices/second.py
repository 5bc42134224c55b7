"""A second device on every machine: its tensors are CPU tensors that meet no others, so a mistake shows without a GPU.

Inside `second_device()` the device takes part as CUDA does: an operator refuses operands of two devices, but
for single numbers, and a CPU generator; what makes the host wait for the device is counted. Its arithmetic is
the CPU's, so results are those of the CPU, up to operators that torch composes of others there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

import torch
from lightning_fabric.accelerators import ACCELERATOR_REGISTRY
from lightning_fabric.accelerators.cpu import CPUAccelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "seconddevice"  # also the name of a method that torch gives tensors and modules
_Operator: TypeAlias = Any  # torch's OpOverload, which has no types
_Named: TypeAlias = dict[str, object] | None
COPIES = ("_to_copy", "copy_")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # CUDA moves a CPU index itself, and waits
# Operators whose result, or its shape, the host must know before it goes on.
WAITING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive")
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.from_numpy)
_present = False


class SecondTensor(torch.Tensor):
    """A tensor on the second device; `near` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls: type[SecondTensor], near: torch.Tensor) -> SecondTensor:
        made: SecondTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )
        made.near = near
        return made

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes contents
        return f"second({self.near!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub says tuple and dict of Any
        cls, func: _Operator, types: Sequence[type], args: tuple[object, ...] = (), kwargs: _Named = None
    ) -> object:
        return _called(func, args, kwargs or {}, None)


class HostReads(Counter[str]):
    """How often the host waited for the device, or sent it something and waited, by operator."""


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Runs factories for the second device, and counts."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.reads = reads

    def __torch_dispatch__(
        self, func: _Operator, types: Sequence[type], args: tuple[object, ...] = (), kwargs: _Named = None
    ) -> object:
        return _called(func, args, kwargs or {}, self.reads)


class _Functions(TorchFunctionMode):
    """`tolist`, and `torch.tensor(..., device=second)`: torch does both beyond the reach of a dispatch mode."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self,
        func: _Operator,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: _Named = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist and isinstance(args[0], SecondTensor):
            self.reads["tolist"] += 1
            return args[0].near.tolist()
        if func is torch.Tensor.new_tensor and isinstance(args[0], SecondTensor):
            near: Any = args[0].near
            return near.new_tensor(*args[1:], **kwargs).to(NAME)
        if func is torch.Tensor.__getitem__ and isinstance(args[0], SecondTensor) and isinstance(args[1], tuple):
            index = tuple(torch.tensor(part).to(NAME) if isinstance(part, list) else part for part in args[1])
            return func(args[0], index)
        if func in _FROM_NUMBERS and kwargs.get("device") is not None:
            device = torch.device(str(kwargs.pop("device")))
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[tuple[torch.device, HostReads]]:
    """The device, and a count of the times that the host waited for it."""
    global _present
    register()
    reads = HostReads()
    _present = True
    try:
        with _Functions(reads), _Dispatch(reads):
            yield torch.device(NAME, 0), reads
    finally:
        _present = False


def _called(func: _Operator, args: tuple[object, ...], kwargs: dict[str, object], reads: HostReads | None) -> object:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    seconds = [value for value in tensors if isinstance(value, SecondTensor)]
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    there = bool(seconds) if device is None else torch.device(str(device)).type == NAME
    if seconds and name not in COPIES:
        _require_one_device(name, tensors[:1] if name in INDEXING else tensors)
    if (there or seconds) and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: expected a generator of the device {NAME!r}, found one of the CPU")
    if reads is not None and (there or seconds):
        waits = name in WAITING or (name == "index" and any(value.dtype == torch.bool for value in tensors[1:]))
        waits = waits or (name in INDEXING and len(seconds) != len(tensors))
        crosses = name in COPIES and (there != bool(seconds) or len(seconds) != len(tensors))
        reads.update([name] * waits + ["to the device" if there else "from the device"] * crosses)
    near = tree_map(_near, kwargs)
    found = func(*tree_map(_near, args), **(near if device is None else {**near, "device": torch.device("cpu")}))
    if name == "copy_":
        return args[0]
    if not there or name == "_local_scalar_dense":
        return found
    # An operator that works in place returns what it was given.
    given = {id(value.near): value for value in seconds}

    def far(value: object) -> object:
        return given.get(id(value), SecondTensor(value)) if isinstance(value, torch.Tensor) else value

    return tree_map(far, found)


def _near(value: object) -> object:
    return value.near if isinstance(value, SecondTensor) else value


def _require_one_device(name: str, tensors: Sequence[torch.Tensor]) -> None:
    strangers = [value for value in tensors if not isinstance(value, SecondTensor) and value.dim() > 0]
    if strangers:
        shapes = ", ".join(str(tuple(value.shape)) for value in strangers)
        raise RuntimeError(f"{name}: expected all tensors on {NAME!r}, found some on the CPU, of shape {shapes}")


class _Module:
    """What torch.cuda is for CUDA."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return _present

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(_present)

    def manual_seed_all(self, seed: int) -> None:
        """Draws are the CPU's."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def synchronize(self, device: object = None) -> None:
        """Nothing goes on by itself here."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """Memory is the CPU's."""

    def memory_allocated(self, device: object = None) -> int:
        return 0

    def max_memory_allocated(self, device: object = None) -> int:
        return 1

    def get_device_name(self, device: object = None) -> str:
        return "a second CPU"


class _Accelerator(CPUAccelerator):
    """What Lightning Fabric asks of it."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to set up."""

    @staticmethod
    def get_parallel_devices(devices: object) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def is_available() -> bool:
        return _present


@cache
def register() -> None:
    """Make the device known to torch and to Lightning Fabric, absent until `second_device()`; before any gradient."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    ACCELERATOR_REGISTRY.register(NAME, _Accelerator, description="tests")
