"""Asynchronous writing of checkpoints: a copy of the state in host memory, and a thread that writes it to a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from bitgolf.errors import BitgolfError
from bitgolf.training import checkpoint


def first_nonfinite(state: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a NaN or an infinity; None if all values are finite.

    Computes the largest magnitude of each tensor (with a fused kernel on a GPU), and reads from the device once.
    """
    floats = {name: t.detach() for name, t in state.items() if t.is_floating_point() and t.numel()}
    by_type: dict[torch.dtype, list[str]] = {}
    for name, tensor in floats.items():
        by_type.setdefault(tensor.dtype, []).append(name)
    if not floats:
        return None
    largest = (torch._foreach_norm([floats[name] for name in names], math.inf) for names in by_type.values())
    finite = torch.cat([torch.stack(norms).isfinite() for norms in largest]).tolist()
    names = [name for names in by_type.values() for name in names]
    bad = {name for name, good in zip(names, finite, strict=True) if not good}
    return next((name for name in state if name in bad), None)


class HostSnapshot:
    """Snapshots of a state in host buffers, which are allocated once for states with the names and shapes of `state`.

    A state on a GPU is cloned there on the current stream and then transferred to pinned memory on a separate stream,
    so that neither the host nor the next training step waits for the transfer.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        device = next((t.device for t in state.values() if t.is_cuda), None)
        self.stream = torch.cuda.Stream(device) if device else None
        self.buffers = {k: torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda) for k, t in state.items()}

    @torch.no_grad()
    def start(self, state: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Start a copy. Returns a function that waits for its completion and returns the host tensors by name."""
        if self.stream is None:
            for name, tensor in state.items():
                self.buffers[name].copy_(tensor)
            return lambda: self.buffers
        clones = {name: tensor.clone() for name, tensor in state.items()}
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            for name, clone in clones.items():
                self.buffers[name].copy_(clone, non_blocking=True)
                if clone.is_cuda:
                    clone.record_stream(self.stream)  # keeps the allocator from reusing its memory before the transfer
        copied = self.stream.record_event()

        def complete() -> dict[str, Tensor]:
            copied.synchronize()
            return self.buffers

        return complete


class CheckpointWriter:
    """Writes checkpoints to `folder` in one background thread, one at a time.

    state: a state with the names, shapes and dtypes of all that will be saved.
    As a context manager it waits for the last file, also after an error. An exception of the thread is raised by the
    next call. A failure of the file system, such as a full disk, is raised as `BitgolfError`.
    """

    def __init__(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        self.folder = folder
        self._copy = HostSnapshot(state)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether a file is being written."""
        return self._writing is not None and not self._writing.done()

    def submit(self, step: int, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Wait for the previous file, then copy the state and start writing it."""
        self.wait()
        complete = self._copy.start(state)
        self._writing = self._thread.submit(lambda: checkpoint.save(self.folder, step, complete(), meta))

    def wait(self) -> None:
        """Wait for the current file. Raises `BitgolfError` if the file system refused to write it."""
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
        except OSError as error:
            message = f"a checkpoint could not be written ({error.strerror or error})"
            hint = (
                "free disk space or choose another --out, then continue from the last complete checkpoint with --resume"
            )
            raise BitgolfError(message, where=str(self.folder), hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
        elif self._writing and (other := self._writing.exception()):
            error.add_note(f"In addition, the last checkpoint could not be written: {other}")
