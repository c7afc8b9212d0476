"""In a run of several processes, rank 0 chooses the kernels for all."""

from __future__ import annotations

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
from bitgolf.model.attention.cores.sdpa import SameDocument, Sdpa
from bitgolf.model.attention.cores.segment_capacity import Room
from bitgolf.model.attention.cores.varlen import Varlen
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.train.kernels import select
from helpers.kernel_selection import (
    leaky_toy,
)
from helpers.process_groups import as_program, fork
from helpers.toy import built


def _member(world: World) -> None:
    """Each rank would choose otherwise, and has another batch; both take what rank 0 says, its room included."""
    masked = leaky_toy().edit(Sdpa, append(masks=part(SameDocument)))
    model, own = built(masked), "variable-length of PyTorch" if world.rank == 0 else "FlexAttention"

    def judge(root: nn.Module, found: Sequence[select.Site], *rest: Any, **options: Any) -> list[select.Verdict]:
        assert world.rank == 0, "only rank 0 tries kernels"
        return [select.Verdict(own if own in site.twins else "", "so says 0", Room(128, 512)) for site in found]

    select.judge = judge
    device = Device(torch.device("cuda"), torch.float32, "a test")
    ids = torch.full((1, 8), 2 + world.rank)
    choice = select.choose(model, (ids,), device, mode="auto", compiled=True, bos=1, backward=False, world=world)
    assert [core.room for core in choice.slots.cores] == [Room(128, 512)] * len(model.blocks)
    assert all(type(m.core) is Varlen for m in model.modules() if hasattr(m, "core"))
    assert choice.lines == [
        "attention with SameDocument(): variable-length of PyTorch (so says 0)",
        "MLP with LeakySquared: plain (so says 0)",
    ]
    with pytest.raises(RecipeError, match="MLP with LeakySquared must stay plain: so says 0"):
        choice.restore()
        select.choose(model, (ids,), device, mode="fast", compiled=True, bos=1, backward=False, world=world)


def test_every_process_takes_the_choice_of_the_first(tmp_path: Path) -> None:
    as_program(__file__, tmp_path)


if __name__ == "__main__":
    sys.exit(fork(_member, Path(sys.argv[1])))
