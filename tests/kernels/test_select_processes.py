"""With several ranks, rank 0 selects the kernels for all ranks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacity
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.training.kernels import select
from helpers.kernel_selection import (
    leaky_toy,
)
from helpers.process_groups import run_as_script, run_in_processes
from helpers.toy import built


def _member(distributed: DistributedContext) -> None:
    """Each rank has another batch and would select another kernel. Both use the selection and capacity of rank 0."""
    masked = leaky_toy().edit(SDPACore, append(masks=part(DocumentMask)))
    model, own = built(masked), "variable-length of PyTorch" if distributed.rank == 0 else "FlexAttention"

    def judge(
        root: nn.Module, found: Sequence[select.KernelCandidate], *rest: Any, **options: Any
    ) -> list[select.KernelDecision]:
        assert distributed.rank == 0, "only rank 0 tries kernels"
        return [
            select.KernelDecision(own if own in site.fused else "", "so says 0", SegmentCapacity(128, 512))
            for site in found
        ]

    select.evaluate_candidates = judge
    device = Device(torch.device("cuda"), torch.float32, "a test")
    ids = torch.full((1, 8), 2 + distributed.rank)
    choice = select.select_kernels(
        model, (ids,), device, mode="auto", compiled=True, bos=1, backward=False, distributed=distributed
    )
    assert [core.capacity for core in choice.segment_capacity.cores] == [SegmentCapacity(128, 512)] * len(model.blocks)
    assert all(type(m.core) is VarlenCore for m in model.modules() if hasattr(m, "core"))
    assert choice.summary == [
        "attention with DocumentMask(): variable-length of PyTorch (so says 0)",
        "MLP with SquaredLeakyReLU: plain (so says 0)",
    ]
    with pytest.raises(RecipeError, match="no fused kernel for MLP with SquaredLeakyReLU: so says 0"):
        choice.restore()
        select.select_kernels(
            model, (ids,), device, mode="fast", compiled=True, bos=1, backward=False, distributed=distributed
        )


@pytest.mark.slow
def test_every_process_takes_the_choice_of_the_first(tmp_path: Path) -> None:
    run_as_script(__file__, tmp_path)


if __name__ == "__main__":
    importlib.import_module("torch._dynamo")  # imports SymPy too: once, instead of in each process
    sys.exit(run_in_processes(_member, Path(sys.argv[1])))
