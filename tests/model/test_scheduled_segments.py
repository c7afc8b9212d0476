"""Segments whose maximum length changes during training: lengths by progress, masks, phases, and kernel capacity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SDPACore, SegmentMask
from bitgolf.model.attention.cores.segment_capacity import SegmentCapacityManager
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.phases import Phases, progress_at
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB)
STAGES = ((4, 0.1), (8, 0.7))


def at(fraction: float) -> TrainingProgress:
    return TrainingProgress(0, 0, fraction * 596.0, 596.0)


@pytest.mark.parametrize(
    ("fraction", "length"),
    [(0.0, 1024), (0.0999, 1024), (0.1, 1024), (0.1001, 2048), (0.7, 2048), (0.7001, 3072), (1, 3072)],
)
def test_an_end_belongs_to_the_stage_before_it(fraction: float, length: int) -> None:
    """The published schedule: 1,024 tokens to a tenth of the run, 2,048 to seven tenths, then 3,072."""
    mask = ScheduledSegmentMask(AT)
    assert mask.max_length == 3072, "a new mask is that of scoring"
    mask.update(at(fraction))
    assert mask.max_length == length
    assert sum(start <= at(fraction).fraction for start in mask.phase_starts) == (1024, 2048, 3072).index(length)


def test_a_stage_to_the_end_is_that_of_the_whole_training() -> None:
    mask = ScheduledSegmentMask(AT, max_length=2560, stages=((2048, 1.0),))
    assert mask.phase_starts == () and mask.max_length == 2560 and mask.limits == (2048, 2560)
    mask.update(at(1.0))
    assert mask.max_length == 2048


def test_masks_are_those_of_fixed_lengths() -> None:
    mask = ScheduledSegmentMask(AT, max_length=16, stages=STAGES)
    ids = torch.randint(2, VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    ids[:, [0, 19]] = 1
    for fraction, length in ((0.05, 4), (0.5, 8), (0.9, 16)):
        mask.update(at(fraction))
        assert torch.equal(mask(ForwardContext(ids, 1)), SegmentMask(AT, max_length=length)(ForwardContext(ids, 1)))
        predicate = mask.mask_mod(ForwardContext(ids, 1))
        rows, t = torch.arange(2)[:, None, None], torch.arange(40)
        assert torch.equal(predicate(rows, t[:, None], t[None]), mask(ForwardContext(ids, 1))[:, 0])


def test_a_model_takes_the_length_of_the_progress() -> None:
    ids = torch.randint(2, VOCAB, (1, 40), generator=torch.Generator().manual_seed(1))
    scheduled = built(
        toy_model().edit(SDPACore, append(masks=part(ScheduledSegmentMask, max_length=16, stages=STAGES)))
    )
    for fraction, length in ((0.05, 4), (0.5, 8), (0.9, 16)):
        fixed = built(toy_model().edit(SDPACore, append(masks=part(SegmentMask, max_length=length))))
        for module in scheduled.modules():
            if isinstance(module, Scheduled):
                module.update(at(fraction))
        assert torch.equal(scheduled(ids), fixed(ids))


@pytest.mark.parametrize("loss", [1.0, 2.0])
def test_a_change_that_no_document_is_long_enough_for_is_no_error(loss: float) -> None:
    """Unlike that of other parts, whose switch must take effect."""
    phases = Phases(torch.nn.ModuleList([ScheduledSegmentMask(AT, stages=STAGES)]))
    losses = iter([1.0, loss])
    phases.advance(at(0.05), lambda: math.nan)
    phases.advance(at(0.2), lambda: next(losses))
    assert phases.last_change and phases.last_change[1:] == (1.0, loss)


def test_other_parts_must_still_change_the_loss() -> None:
    class Switch(Scheduled):
        @property
        def phase_starts(self) -> tuple[float, ...]:
            return (0.1 + 1e-9,)

        def update(self, progress: TrainingProgress) -> None:
            pass

    phases = Phases(torch.nn.ModuleList([ScheduledSegmentMask(AT, stages=STAGES), Switch()]))
    phases.advance(at(0.05), lambda: math.nan)
    with pytest.raises(BitgolfError, match="does not change the loss"):
        phases.advance(at(0.2), lambda: 1.0)


def test_kernels_have_one_capacity_for_the_whole_run() -> None:
    """Enough segments for the shortest stage, and enough tokens for the longest."""
    core = VarlenCore(SDPACore(AT, masks=(part(ScheduledSegmentMask, max_length=512, stages=((4, 0.5),)),)))
    lines = list[str]()
    manager = SegmentCapacityManager(core, 1, lines.append)
    ids = np.full((1, 1024), 5)
    manager.reserve([ids])
    assert core.capacity.max_segments >= 256 and core.capacity.max_seqlen == 512
    (mask,) = core.segment_masks
    assert isinstance(mask, ScheduledSegmentMask) and core.segment_lengths == [512]
    for fraction, length in ((0.2, 4), (0.9, 512)):
        mask.update(at(fraction))
        manager.ensure(ids)
        assert core.segment_lengths == [length] and not lines


@pytest.mark.parametrize("stages", [(), ((8, 0.5), (16, 0.5)), ((8, 0.0),), ((8, 0.6), (4, 0.2))])
def test_stages_must_ascend(stages: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(RecipeError, match=r"stages must be one or more \(length, end\) with ascending ends"):
        part(ScheduledSegmentMask, stages=stages)(AT)


@pytest.mark.parametrize("seconds", [596.0, 600.0, 4.0, 0.3])
def test_the_warm_up_of_a_phase_has_its_length(seconds: float) -> None:
    """The graph of each phase is compiled at its start, whose fraction is rounded when it is computed from seconds."""
    mask = ScheduledSegmentMask(AT)
    for start, length in zip(mask.phase_starts, (2048, 3072), strict=True):
        mask.update(progress_at(start, 0, seconds))
        assert mask.max_length == length
