"""Text generation: sampling from a model token by token."""

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
    """Yield the tokens of the prompt, then at most `tokens` sampled tokens; stop if the document ends (BOS).

    `Tokenizer.decode_lenient` decodes them.  temperature: 0 selects the most likely token.  top_k: sample from the k
    most likely tokens; 0 means all.  window: maximum context length in tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = IncrementalDecoder(model, 1, window, max(1, window // 2))
    for token in tokenizer.encode(prompt).tolist():
        yield token
        decoder.step(torch.tensor([token]))
    for _ in range(tokens):
        token = _sample_token(decoder.logits[0].cpu(), temperature, top_k, generator)
        if token == tokenizer.bos:
            return
        yield token
        decoder.step(torch.tensor([token]))


def _sample_token(logits: torch.Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top:
        logits = logits.masked_fill(logits < logits.topk(min(top, len(logits))).values[-1], float("-inf"))
    return int(torch.multinomial(torch.softmax(logits, -1), 1, generator=generator))
