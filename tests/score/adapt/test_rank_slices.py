"""SGD steps divided among ranks: the rows of a step, its weights against plain torch, and independence of processes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation, WeightAdapter
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.rank_slices import RankSlicedSGD
from helpers.toy import VOCAB, built, toy_model

TOY = toy_model().set("layers", 2)


def tokens(count: int) -> torch.Tensor:
    ids = torch.randint(2, VOCAB, (count + 1,), generator=torch.Generator().manual_seed(0))
    ids[::13] = 1
    return ids


def lengths(sgd: SGDAdaptation, targets: int, length: int) -> list[list[int]]:
    return [[row.stop - row.start for row in step] for step in sgd.steps(tokens(targets), 1, length)]


@pytest.mark.parametrize(
    ("length", "sequences", "left_out"), [(2048, 16, 0), (2560, 12, 2048), (2816, 11, 1792), (3072, 10, 2048)]
)
def test_full_sequences_of_a_published_chunk(length: int, sequences: int, left_out: int) -> None:
    (step,) = lengths(RankSlicedSGD(), 32_768, length)
    assert sum(step) == sequences * length == 32_768 - left_out and len(step) == 8
    assert [size // length for size in step] == [sequences * (r + 1) // 8 - sequences * r // 8 for r in range(8)]
    assert RankSlicedSGD().longest_row(32_768, length) == max(step)


@given(targets=st.integers(1, 200), length=st.integers(1, 30), ranks=st.integers(1, 9), most=st.integers(1, 4))
def test_rows_cover_the_full_sequences_once(targets: int, length: int, ranks: int, most: int) -> None:
    sgd = RankSlicedSGD(ranks=ranks, batch_size=most)
    steps = sgd.steps(tokens(targets), 1, length)
    covered = sorted(target for step in steps for row in step for target in range(row.first_target, row.stop))
    assert covered == list(range(targets // length * length))
    assert all(1 <= len(step) <= ranks for step in steps)
    assert all((row.stop - row.start) % length == 0 and row.start == row.first_target for s in steps for row in s)
    longest = max((row.stop - row.start for step in steps for row in step), default=0)
    assert longest == sgd.longest_row(targets, length) <= most * length
    for step in steps:
        assert sum((row.stop - row.start) * sgd.target_weight(row, step) for row in step) == pytest.approx(1.0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_step_is_the_mean_of_the_means_of_the_ranks(ranks: int) -> None:
    """Seven sequences of 8 targets: a single rank has all; three have 2, 2 and 3, and each counts a third."""
    ids = tokens(60)
    model, other = built(TOY).double().requires_grad_(False), built(TOY).double()
    sgd = RankSlicedSGD(ranks=ranks, lr=0.1, max_norm=0.5)
    learner = WeightAdapter(sgd, model, select_device(), SINGLE_PROCESS, window=8, chunk=60)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        learner.train_on(ids)
        bounds = {1: [(0, 56)], 3: [(0, 16), (16, 32), (32, 56)]}[ranks]
        losses = [F.cross_entropy(other(ids[None, a:b])[0], ids[a + 1 : b + 1]) for a, b in bounds]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    for (path, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-6, atol=1e-9, msg=path)


def test_a_chunk_without_a_full_sequence_is_an_error() -> None:
    with pytest.raises(RecipeError, match="a chunk of 30 targets has no full sequence of 32"):
        PhasedLoRA(lora=part(DocumentLoRA, window=32, stride=16), chunk=30, sgd=part(RankSlicedSGD))
