"""Which methods can be coded, in which rows, and the predictor of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import torch

from bitgolf.config.spec import Spec, part
from bitgolf.model.decoding.context import decode
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.coding.former_predictor import FormerLoRAPredictor, FormerPredictor
from bitgolf.score.coding.player_predictor import PlayerPredictor
from bitgolf.score.coding.predictor import DocumentPredictor, Predictor
from bitgolf.score.methods import ContiguousScoring, ScoringMethod
from bitgolf.score.player import coding_player

LEAST_ROWS, MOST_ROWS, CACHE_BYTES = 16, 256, 1 << 30
"""More rows make matrix products faster, up to about 256."""
CPU_FLOAT32 = Device(torch.device("cpu"), torch.float32, "CPU, float32, for reproducible coding")


def has_plain_windows(method: ScoringMethod) -> bool:
    """Whether the method's windows are all that it does. It is coded with isolated documents."""
    return type(method).make_player is ScoringMethod.make_player


def is_serial(method: ScoringMethod) -> bool:
    """Whether a decoder cannot decode documents side by side, so that coding is slow."""
    return method.serial and not has_plain_windows(method)


def default_method(methods: Sequence[Spec[ScoringMethod]]) -> Spec[ScoringMethod]:
    """The last of an artifact's methods that is not serial, or else contiguous windows of its last method's length."""
    parallel = (method for method in reversed(methods) if not is_serial(method()))
    return next(parallel, part(ContiguousScoring, window=methods[-1]().window))


def default_rows(model: LM, window: int) -> int:
    """Documents side by side whose keys and values take at most `CACHE_BYTES`, from `LEAST_ROWS` to `MOST_ROWS`."""
    cache = KVCache(1, 1, torch.device("cpu"))
    decode(model.eval(), cache, torch.tensor([[model.bos]]))
    slot = sum(buffer.numel() * buffer.element_size() for buffer in cache.buffers.values())
    return max(LEAST_ROWS, min(MOST_ROWS, CACHE_BYTES // max(slot * window, 1)))


def num_rows(method: ScoringMethod, rows: int, documents: int) -> int:
    """Documents side by side: at most `rows`, and one for a method that is serial."""
    return 1 if is_serial(method) else max(1, min(rows, documents))


def batch_tokens(method: ScoringMethod, rows: int) -> int:
    """Tokens per batch with which the referee follows the same plan as the coder."""
    return rows * method.window


@contextmanager
def open_predictor(
    model: LM, vocab: int, method: ScoringMethod, lengths: Sequence[int], rows: int
) -> Iterator[Predictor]:
    """A predictor for documents that are coded. The model is restored afterwards.

    lengths: targets of each document, its end included. rows: documents side by side, see `num_rows`. Raises
    `UsageError` if the player of the method cannot predict token by token.
    """
    if has_plain_windows(method):
        yield DocumentPredictor(model, method, lengths, rows)
        return
    with closing(method.make_player(model, vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        yield PlayerPredictor(coding_player(player), method, lengths, model.bos, batch_tokens(method, rows))


@contextmanager
def open_former_predictor(
    model: LM, vocab: int, method: ScoringMethod, documents: int, rows: int
) -> Iterator[Predictor]:
    """A predictor for a file of format 3 or 4, in which a document goes on until its end is decoded."""
    if not isinstance(method, DocumentLoRA):
        yield FormerPredictor(model, method, documents, rows)
        return
    with closing(method.make_player(model, vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        assert isinstance(player, LoRAPlayer)
        yield FormerLoRAPredictor(player, method, documents)
