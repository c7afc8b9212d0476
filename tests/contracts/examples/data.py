"""Masks of packed text: a cap that is shorter than the documents of the contract suite's text."""

from __future__ import annotations

from typing import Any

from bitgolf.model.cores.sdpa import Segments
from bitgolf.spec import Spec, part

EXAMPLES: dict[type, Spec[Any]] = {Segments: part(Segments, cap=5)}
