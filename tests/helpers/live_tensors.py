"""Memory of the tensors of an eager computation, real or fake, for tests of memory limits."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """Of an operator's arguments or results: lists and tuples are looked into."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


class MemoryTracker(TorchDispatchMode):
    """Tracks the storages that operations create in its context: their peak bytes, and the largest tensor.

    A storage counts once, from the operation that creates it until it is freed. Storages from before do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = self.largest_bytes = self.largest_elements = 0
        self.largest = ""
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tensors_in((*args, *(kwargs or {}).values())):
            self._remember(value, counts=False)
        out = func(*args, **(kwargs or {}))
        for value in tensors_in((out,)):
            self._remember(value, counts=True)
            self._measure(func, value)
        return out

    def _remember(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0
        self._known[key] = weakref.finalize(storage, self._freed(key, size))
        self.bytes += size
        self.peak_bytes, self.largest_bytes = max(self.peak_bytes, self.bytes), max(self.largest_bytes, size)

    def _freed(self, key: int, size: int) -> Callable[[], None]:
        def freed() -> None:
            self._known.pop(key, None)
            self.bytes -= size

        return freed

    def _measure(self, func: Any, tensor: Tensor) -> None:
        """Update the largest tensor, by elements in memory: an expanded view counts only the storage that it views."""
        elements = min(tensor.numel(), tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1))
        if elements > self.largest_elements:
            self.largest_elements, self.largest = elements, f"{func} -> {tuple(tensor.shape)} {tensor.dtype}"
