"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.lm import LM
from bitgolf.tokens.tokenizer import Tokenizer


def generate(
    model: LM,
    tokenizer: Tokenizer,
    prompt: bytes,
    *,
    tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    window: int,
) -> Iterator[int]:
    """The tokens of the prompt, then `tokens` sampled ones, until the document ends: `Tokenizer.decode_lenient` reads them.

    temperature 0 takes the likeliest token; `top_k` keeps the likeliest so many, 0 all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    reader = IncrementalDecoder(model, 1, window, max(1, window // 2))
    for token in tokenizer.encode(prompt).tolist():
        yield token
        reader.step(torch.tensor([token]))
    for _ in range(tokens):
        token = _sample_token(reader.logits[0].cpu(), temperature, top_k, generator)
        if token == tokenizer.bos:
            return
        yield token
        reader.step(torch.tensor([token]))


def _sample_token(logits: torch.Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top:
        logits = logits.masked_fill(logits < logits.topk(min(top, len(logits))).values[-1], float("-inf"))
    return int(torch.multinomial(torch.softmax(logits, -1), 1, generator=generator))
