"""Examples of masks for packed text: a maximum length below that of the documents in the contract tests."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.cores.scheduled_segments import ScheduledSegmentMask
from bitgolf.model.attention.cores.sdpa import SegmentMask

EXAMPLES: dict[type, Spec[Any]] = {
    SegmentMask: part(SegmentMask, max_length=5),
    ScheduledSegmentMask: part(ScheduledSegmentMask, max_length=5, stages=((3, 0.5),)),
}
