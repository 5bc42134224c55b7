"""Bytes of the tensors that are alive at once, counted as operators make them and as they are forgotten."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts what operators make while it is active, on any device; on `meta` nothing is computed or allocated.

    What was there before counts nothing; views count nothing; what autograd keeps is alive until it is used.

    Attributes:
        held: bytes that are alive now.
        most: the most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.held = self.most = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside; to say so to torch's compiler would load it, which takes longer than a count."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator gives)
        """Let the operator do its work, and note what is new."""
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if _has_storage(value)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if _has_storage(value) and value.untyped_storage()._cdata not in given:
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return

        def forgotten(_: object) -> None:
            if self._known.pop(place, None) is not None:
                self.held -= size

        self._known[place] = weakref.ref(storage, forgotten)
        self.held += size
        self.most = max(self.most, self.held)


def _has_storage(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided
