"""Checkpoints that are written while training goes on: a copy of the state in host memory, and a thread that writes it."""

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
from bitgolf.train import checkpoint


def first_nonfinite(state: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity.

    One largest magnitude for each tensor (a fused kernel on a GPU), and a single read from the device for all of them.
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
    """Copies of states like `state`, in buffers that are made once. What is trained afterwards does not change a copy.

    From a GPU: the state is cloned there, in the order of the steps, and transferred to pinned memory on a stream of its
    own, so that neither the host nor the next step waits for the transfer.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        device = next((t.device for t in state.values() if t.is_cuda), None)
        self.stream = torch.cuda.Stream(device) if device else None
        self.buffers = {k: torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda) for k, t in state.items()}

    @torch.no_grad()
    def start(self, state: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Begin to copy. The function that is returned waits for the copy to be complete, and returns it."""
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
                    clone.record_stream(self.stream)  # its memory is not used again before it was read
        copied = self.stream.record_event()

        def complete() -> dict[str, Tensor]:
            copied.synchronize()
            return self.buffers

        return complete


class CheckpointWriter:
    """Writes the checkpoints of a run into `folder` by one thread, one at a time. `state` shows the form of all states.

    As a context manager it waits for the last file, however the block ends. What goes wrong in the thread is raised by
    the next call: `BitgolfError` where the file system refuses (a full disk).
    """

    def __init__(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        self.folder = folder
        self._copy = HostSnapshot(state)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether a file is still being written."""
        return self._writing is not None and not self._writing.done()

    def submit(self, step: int, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Copy a state and begin to write it, after the one before is whole."""
        self.wait()
        complete = self._copy.start(state)
        self._writing = self._thread.submit(lambda: checkpoint.save(self.folder, step, complete(), meta))

    def wait(self) -> None:
        """Return when the last file is whole."""
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
        except OSError as error:
            cause = f"a checkpoint could not be written ({error.strerror or error})"
            hint = "free some space, or choose another --out; --resume goes on from the last checkpoint that is whole"
            raise BitgolfError(cause, where=str(self.folder), hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
        elif self._writing and (other := self._writing.exception()):
            error.add_note(f"and the last checkpoint could not be written: {other}")
