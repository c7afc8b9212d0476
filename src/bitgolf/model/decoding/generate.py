"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bitgolf.model.decoding.incremental import Reader
from bitgolf.model.lm import LM
from bitgolf.tokens.tokenizer import Tokenizer


def generate(
    model: LM, tokenizer: Tokenizer, prompt: bytes, *, tokens: int, temperature: float, top: int, seed: int, window: int
) -> Iterator[int]:
    """The tokens of the prompt, then `tokens` sampled ones, until the document ends: `Tokenizer.readable` reads them.

    temperature 0 takes the likeliest token; `top` keeps the likeliest so many, 0 all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    reader = Reader(model, 1, window, max(1, window // 2))
    for token in tokenizer.encode(prompt).tolist():
        yield token
        reader.push(torch.tensor([token]))
    for _ in range(tokens):
        token = _draw(reader.logits[0].cpu(), temperature, top, generator)
        if token == tokenizer.bos:
            return
        yield token
        reader.push(torch.tensor([token]))


def _draw(logits: torch.Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top:
        logits = logits.masked_fill(logits < logits.topk(min(top, len(logits))).values[-1], float("-inf"))
    return int(torch.multinomial(torch.softmax(logits, -1), 1, generator=generator))
