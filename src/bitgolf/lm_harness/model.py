"""The model `bitgolf` of lm-evaluation-harness, on the Python interface of this package.

Source of the interface and its conventions: EleutherAI/lm-evaluation-harness, `lm_eval.api.model.LM`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.model import LM as HarnessModel  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

import bitgolf
from bitgolf.errors import UsageError

HARNESS_DEVICE = "cuda:0"
"""The device that the harness passes by default, whether or not there is one."""
MOST_GENERATED = 256
"""Tokens to generate for a request that states no number."""


@register_model("bitgolf")
class BitgolfHarnessModel(HarnessModel):
    """A packed model.

    artifact: the file artifact.bg, the folder of its run, or `latest`. device: as in `bitgolf.load`; `cuda:0`, which the
    harness passes if none is named, stands for a GPU if there is one. max_length: tokens that the model reads at a time;
    by default those of the last scoring method of its recipe. batch_tokens: tokens in a batch. batch_size,
    max_batch_size: of the harness, without effect.

    A text begins with the token that begins a document. Log-likelihoods are natural logarithms; those of whole texts do
    not include the end of the document, which the referee of `bitgolf score` counts as a target.
    """

    def __init__(
        self,
        artifact: str = "latest",
        device: str | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        self.bitgolf = bitgolf.load(str(artifact), device="auto" if device in (None, HARNESS_DEVICE) else device)
        self.bos = self.bitgolf.tokenizer.bos
        self.max_length = int(max_length or self.bitgolf.recipe.score[-1]().window)
        self.batch_tokens = int(batch_tokens)
        if self.max_length < 1 or self.batch_tokens < 1:
            message = f"expected at least 1, got max_length={self.max_length}, batch_tokens={self.batch_tokens}"
            raise UsageError(message, where="--model_args")

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) the log-likelihood of the continuation, and whether it is greedy.

        As in the harness, spaces at the end of the context belong to the continuation, and the tokens are those of both
        together, from the number of tokens of the context on.
        """
        pairs = [self._pair(*request.args) for request in requests]
        scores = iter(self.bitgolf.continuations([pair for pair in pairs if pair[1]], batch=self.batch_tokens))
        found: list[tuple[float, bool]] = [next(scores) if tokens else (0.0, True) for _, tokens in pairs]
        for request, score in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens before a continuation, from the start of the document or the last that fit, and its tokens."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, known = self._encode(context + continuation), len(self._encode(context))
        before, tokens = [self.bos, *whole[:known]], whole[known:][-self.max_length :]
        return before[-(self.max_length + 1 - len(tokens)) :] if tokens else before, tokens

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each whole text (text,), in windows of `max_length` tokens without overlap.

        The last window of a long text is a full one, of which only the tokens that are left are scored.
        """
        windows = [list(self._windows(self._encode(request.args[0]))) for request in requests]
        scores = iter(self.bitgolf.continuations([w for own in windows for w in own], batch=self.batch_tokens))
        found = [math.fsum(next(scores).log_prob for _ in own) for own in windows]
        for request, score in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, score)
        return found

    def _windows(self, ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        """The windows of a text: (tokens before, tokens to score), each token once."""
        text, size = [self.bos, *ids], self.max_length
        for first in range(1, len(text), size):
            end = min(first + size, len(text))
            start = max(0, end - 1 - size)
            yield text[start:first], text[first:end]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation of the context of each (context, settings), up to the first of the texts `until`."""
        found = [self._generate(*request.args) for request in requests]
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        sampled = settings.get("do_sample", False) or settings.get("temperature", 0.0) > 0.0
        pieces = self.bitgolf.stream(
            context,
            tokens=int(settings.get("max_gen_toks", MOST_GENERATED)),
            temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
            top_k=int(settings.get("top_k", 0)),
            seed=int(settings.get("seed", 0)),
        )
        text, shown = "", len(context)
        for piece in pieces:
            text += piece
            if any(stop in text[shown:] for stop in stops):
                break
        ends = [at for stop in stops if (at := text.find(stop, shown)) >= 0]
        return text[shown : min(ends, default=len(text))]

    def _encode(self, text: str) -> list[int]:
        return self.bitgolf.encode(text).tolist() if text else []
