"""Fused kernels for scoring: which of them replace reference parts of a model, chosen once for each kind of model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.train.kernels.select import KernelDecision, KernelSelection, kernel_candidates, select_kernels

TRIAL_TOKENS = 32_768
"""Number of tokens on which kernels are timed."""
TRIAL_DOCUMENT = 512
"""Mean length of a document among them, in tokens."""
DEFAULT_LENGTH = 2048
"""Tokens of a row, if the caller does not know how long rows will be."""


class KernelSelector:
    """Selects kernels for the models of one scoring job, and keeps its choices.

    Models of the same parts and shapes, on the same device and with rows of the same length, get the same kernels. They
    are timed on random documents, so that all ranks choose together and before they see a text.
    """

    def __init__(self) -> None:
        self._verdicts: dict[Hashable, Sequence[KernelDecision]] = {}

    def __call__(
        self,
        model: LM,
        device: Device,
        max_length: int,
        *,
        backward: bool = False,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> KernelSelection:
        """Put the fastest kernels that pass the parity check into a model; `restore` of the result takes them out.

        max_length: tokens of the longest row, 0 if not known. backward: whether gradients are needed.
        """
        length = max_length or DEFAULT_LENGTH
        found = list(kernel_candidates(model, compiled=True))
        shapes = [tuple(p.shape) for p in model.parameters()]
        key = (device.torch_device, length, backward, *(s.label for s in found), *shapes)
        if key in self._verdicts:
            return KernelSelection(model, found, self._verdicts[key], model.bos, _discard)
        rows = random_documents(len(model.embed.weight), model.bos, length).to(device.torch_device)
        choice = select_kernels(
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
        self._verdicts[key] = choice.decisions
        return choice


def _discard(line: str) -> None:
    """Growing segment buffers are not reported: the result of a score lists the kernels."""


def random_documents(vocab: int, bos: int, length: int) -> Tensor:
    """Rows of random documents, (B, length), about `TRIAL_TOKENS` tokens in all. The same ones in every call."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab, (max(1, TRIAL_TOKENS // length), length), generator=generator)
    starts = torch.rand(ids.shape, generator=generator) < 1 / TRIAL_DOCUMENT
    starts[:, 0] = True
    return ids.masked_fill(ids == bos, (bos + 1) % vocab).masked_fill(starts, bos)
