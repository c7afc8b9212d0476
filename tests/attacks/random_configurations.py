"""Honest players in random configurations: methods, windows, layouts of documents, models, seeds."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt

from bitgolf.config.spec import part
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.audit.audit import AuditReport, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget
from bitgolf.score.audit.evaluation import Ints
from bitgolf.score.audit.player_evaluation import PlayerEvaluation
from bitgolf.score.cached import CachedScoring
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from helpers.toy import built, toy_model

Random = np.random.Generator


class TwoBitTokenizer:
    """Encodes a byte as four tokens of two bits. The vocabulary is small enough to test every token."""

    vocab, bos = 6, 1

    def encode(self, data: bytes, /) -> Ints:
        both = np.frombuffer(data, np.uint8).astype(np.int64)
        return (both[:, None] >> np.array([6, 4, 2, 0]) & 3).reshape(-1) + 2

    def decode(self, ids: npt.NDArray[np.integer[Any]], /) -> bytes:
        parts = (np.asarray(ids) - 2).reshape(-1, 4)
        return (parts << np.array([6, 4, 2, 0])).sum(1).astype(np.uint8).tobytes()


def random_windows(random: Random) -> dict[str, Any]:
    window = int(random.choice([8, 16, 24, 32, 48]))
    return {"window": window, "stride": int(random.integers(1 + window // 4, window + 1))}


def sgd(random: Random) -> Any:
    rate, epochs = float(random.choice([0.002, 0.02])), int(random.integers(1, 3))
    return part(SGDAdaptation, lr=rate, epochs=epochs, batch_size=2, sequence_length=int(random.choice([16, 32])))


def lora(random: Random, **settings: Any) -> Any:
    on = (("head",), ("head", "q", "v"), ("q", "k", "v", "mixer", "mlp"))[random.integers(3)]
    rank, rows, rate = int(random.choice([1, 4])), int(random.integers(1, 5)), float(random.choice([1e-4, 0.01]))
    return part(DocumentLoRA, **random_windows(random), rows=rows, rank=rank, target_modules=on, lr=rate, **settings)


METHODS: dict[str, Callable[[Random], ScoringMethod]] = {
    "contiguous": lambda r: ContiguousScoring(window=int(r.integers(4, 40)), isolated=bool(r.integers(2))),
    "sliding": lambda r: SlidingScoring(**random_windows(r), isolated=bool(r.integers(2))),
    "cached": lambda r: CachedScoring(**random_windows(r), rows=int(r.integers(1, 5)), isolated=bool(r.integers(2))),
    "lora": lambda r: lora(r, keep_a=bool(r.integers(2)))(),
    "sgd": lambda r: StreamSGD(
        **random_windows(r), chunk=int(r.integers(30, 70)), isolated=bool(r.integers(2)), adaptation=sgd(r)
    ),
    "phased": lambda r: PhasedLoRA(
        lora=lora(r), boundaries=(1, 3)[: int(r.integers(1, 3))], cumulative=bool(r.integers(2)), chunk=40, sgd=sgd(r)
    ),
    "mixed": lambda r: NGramMixing(
        **random_windows(r), isolated=bool(r.integers(2)), document_orders=(1, 3), initial_weight=0.2
    ),
}
SMALL_BUDGET = AuditBudget(confidence=0.8, share=0.4)


def documents(random: Random, count: int) -> list[bytes]:
    letters = random.integers(97, 105, 5).astype(np.uint8)
    return [random.choice(letters, int(random.integers(4, 16))).tobytes() for _ in range(count)]


def audit_random_configuration(seed: int) -> tuple[str, AuditReport]:
    """The name of the method for a seed, and its audit."""
    random = np.random.default_rng(seed)
    name = list(METHODS)[seed % len(METHODS)]
    method = METHODS[name](random)
    spec = toy_model().set("dim", 16).set("layers", 2)
    model = built(spec, seed=seed, noise=float(random.choice([0.1, 0.3])), vocab=TwoBitTokenizer.vocab)
    batch = int(random.choice([32, 128, 4096]))
    texts = documents(random, int(random.integers(3, 6))), documents(random, 3)
    return name, audit_evaluation(
        lambda: player_evaluation(model, method, batch), *texts, seed=seed, budget=SMALL_BUDGET
    )


def player_evaluation(model: LM, method: ScoringMethod, batch: int = 4096) -> PlayerEvaluation:
    return PlayerEvaluation(
        TwoBitTokenizer(),
        lambda: method.make_player(deepcopy(model), TwoBitTokenizer.vocab, select_device(), SINGLE_PROCESS),
        method,
        batch_tokens=batch,
    )
