"""How fast a text will be coded, from a short part of it, so that a command can say how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from bitgolf.score.coding.coded_text import encode_text
from bitgolf.score.coding.compress import Encoder
from bitgolf.tokens.tokenizer import Ids

PROBED_TOKENS = 24
"""Tokens of each document that are coded. Methods that learn get one step more than they learn from at once."""


class Speed(NamedTuple):
    """seconds: expected for the whole text."""

    tokens_per_second: float
    seconds: float


def measure_speed(encoder: Encoder, documents: Sequence[Ids]) -> Speed:
    """Code the start of as many documents as are coded side by side, and infer the time for all tokens."""
    method = encoder.method
    learns = method.adapts and not method.serial
    most = min(method.stride + 2, 256) if learns else PROBED_TOKENS
    beside = encoder.task(documents).rows
    starts = [document[:most] for document in sorted(documents, key=len, reverse=True)[:beside]]
    task = encoder.task(starts)
    started = time.perf_counter()
    encode_text(task, starts)
    rate = task.tokens / max(time.perf_counter() - started, 1e-9)
    return Speed(rate, sum(len(document) + 1 for document in documents) / rate)
