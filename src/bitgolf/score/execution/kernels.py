"""Selection of fused kernels for scoring. Each replaces reference parts of a model; decisions are cached."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.training.kernels.select import KernelDecision, KernelSelection, kernel_candidates, select_kernels

TRIAL_TOKENS = 32_768
"""Number of tokens on which kernels are timed."""
TRIAL_DOCUMENT = 512
"""Mean document length in the timed tokens."""
DEFAULT_LENGTH = 2048
"""Row length in tokens if the caller does not specify one."""


class KernelSelector:
    """Selects kernels for the models of one scoring job, and caches its decisions.

    Models with the same parts and shapes, device and row length get the same kernels. Kernels are timed on random
    documents, so that all ranks make the same decision, independent of the text.
    """

    def __init__(self) -> None:
        self._decisions: dict[Hashable, Sequence[KernelDecision]] = {}

    def __call__(
        self,
        model: LM,
        device: Device,
        max_length: int,
        *,
        backward: bool = False,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> KernelSelection:
        """Install the fastest kernels that pass the parity check in a model. `restore` of the result removes them.

        max_length: tokens of the longest row, 0 if not known. backward: whether gradients are needed.
        """
        length = max_length or DEFAULT_LENGTH
        candidates = list(kernel_candidates(model, compiled=True))
        shapes = [tuple(p.shape) for p in model.parameters()]
        key = (device.torch_device, length, backward, *(c.label for c in candidates), *shapes)
        if key in self._decisions:
            return KernelSelection(model, candidates, self._decisions[key], model.bos, _discard)
        rows = random_documents(len(model.embed.weight), model.bos, length).to(device.torch_device)
        selection = select_kernels(
            model,
            (rows,),
            device,
            mode="auto",
            compiled=True,
            bos=model.bos,
            backward=backward,
            distributed=distributed,
            log=_discard,
        )
        self._decisions[key] = selection.decisions
        return selection


def _discard(line: str) -> None:
    """Discard log lines about segment buffers that grow. The result of a score lists the kernels."""


def random_documents(vocab: int, bos: int, length: int) -> Tensor:
    """Rows of random documents, int64 (B, length), about `TRIAL_TOKENS` tokens in total. The same in every call."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab, (max(1, TRIAL_TOKENS // length), length), generator=generator)
    starts = torch.rand(ids.shape, generator=generator) < 1 / TRIAL_DOCUMENT
    starts[:, 0] = True
    return ids.masked_fill(ids == bos, (bos + 1) % vocab).masked_fill(starts, bos)
