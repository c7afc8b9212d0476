"""Log-probabilities of continuations: how likely a model finds some tokens after others, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bitgolf.model.lm import LM

BATCH_TOKENS = 8192


class Continuation(NamedTuple):
    """Tokens (n,), int64, and the tokens before them, (m,) with m at least 1. The model reads m + n - 1 tokens."""

    context: Tensor
    tokens: Tensor

    @property
    def inputs(self) -> Tensor:
        """What the model reads, (m + n - 1,)."""
        return torch.cat([self.context, self.tokens[:-1]])


class ContinuationScore(NamedTuple):
    """log_prob: natural logarithm of the probability of all tokens. is_greedy: each is the likeliest one at its place."""

    log_prob: float
    is_greedy: bool


@torch.no_grad()
def score_continuations(
    model: LM, asked: Sequence[Continuation], device: torch.device, batch_tokens: int = BATCH_TOKENS
) -> list[ContinuationScore]:
    """Score continuations, in batches of at most `batch_tokens` tokens, padding included, or of one continuation."""
    found: list[ContinuationScore | None] = [None] * len(asked)
    for batch in _batches(asked, batch_tokens):
        ids = pad_sequence([asked[i].inputs for i in batch], batch_first=True).to(device)  # nothing attends to padding
        hidden = model.hidden(model.forward_context(ids))
        for row, i in enumerate(batch):
            first, tokens = len(asked[i].context) - 1, asked[i].tokens.to(device)
            logits = model.logits(hidden[row : row + 1, first : first + len(tokens)])[0].float()
            log_probs = logits.log_softmax(-1).gather(1, tokens[:, None])
            greedy = bool((logits.argmax(-1) == tokens).all())
            found[i] = ContinuationScore(float(log_probs.double().sum()), greedy)
    return [score for score in found if score]


def _batches(asked: Sequence[Continuation], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of continuations of similar lengths, the longest first, so that too little memory shows at once."""
    lengths = [len(one.inputs) for one in asked]
    waiting = sorted(range(len(asked)), key=lambda i: -lengths[i])
    while waiting:
        rows = max(1, batch_tokens // max(1, lengths[waiting[0]]))
        yield waiting[:rows]
        waiting = waiting[rows:]
