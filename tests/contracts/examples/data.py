"""Masks of packed text: a cap that is shorter than the documents of the contract suite's text."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.cores.sdpa import SegmentMask

EXAMPLES: dict[type, Spec[Any]] = {SegmentMask: part(SegmentMask, max_length=5)}
