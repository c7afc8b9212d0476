"""Honest players in random configurations: methods, windows, layouts of documents, models, seeds."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt

from bitgolf.config.spec import part
from bitgolf.model.lm import LM
from bitgolf.runtime.device import choose
from bitgolf.runtime.distributed import ALONE
from bitgolf.score.adapt.document_lora import DocumentLora
from bitgolf.score.adapt.gradient import Sgd
from bitgolf.score.adapt.ngram_mixing import Mixed
from bitgolf.score.adapt.phased_lora import Phased
from bitgolf.score.adapt.stream_sgd import StreamSgd
from bitgolf.score.audit.audit import Audit, audit
from bitgolf.score.audit.evaluation import Ints
from bitgolf.score.audit.harness import Depth
from bitgolf.score.audit.player_evaluation import Refereed
from bitgolf.score.cached import Cached
from bitgolf.score.methods import Contiguous, Method, Sliding
from helpers.toy import built, toy_model

Random = np.random.Generator


class Quarters:
    """Four tokens for each byte, two bits each: a vocabulary so small that each of it can be tried."""

    vocab, bos = 6, 1

    def encode(self, data: bytes, /) -> Ints:
        both = np.frombuffer(data, np.uint8).astype(np.int64)
        return (both[:, None] >> np.array([6, 4, 2, 0]) & 3).reshape(-1) + 2

    def decode(self, ids: npt.NDArray[np.integer[Any]], /) -> bytes:
        parts = (np.asarray(ids) - 2).reshape(-1, 4)
        return (parts << np.array([6, 4, 2, 0])).sum(1).astype(np.uint8).tobytes()


def reading(random: Random) -> dict[str, Any]:
    window = int(random.choice([8, 16, 24, 32, 48]))
    return {"window": window, "stride": int(random.integers(1 + window // 4, window + 1))}


def sgd(random: Random) -> Any:
    rate, epochs = float(random.choice([0.002, 0.02])), int(random.integers(1, 3))
    return part(Sgd, lr=rate, epochs=epochs, batch=2, length=int(random.choice([16, 32])))


def lora(random: Random, **settings: Any) -> Any:
    on = (("head",), ("head", "q", "v"), ("q", "k", "v", "out", "mlp"))[random.integers(3)]
    rank, rows, rate = int(random.choice([1, 4])), int(random.integers(1, 5)), float(random.choice([1e-4, 0.01]))
    return part(DocumentLora, **reading(random), rows=rows, rank=rank, on=on, lr=rate, **settings)


METHODS: dict[str, Callable[[Random], Method]] = {
    "contiguous": lambda r: Contiguous(window=int(r.integers(4, 40)), isolated=bool(r.integers(2))),
    "sliding": lambda r: Sliding(**reading(r), isolated=bool(r.integers(2))),
    "cached": lambda r: Cached(**reading(r), rows=int(r.integers(1, 5)), isolated=bool(r.integers(2))),
    "lora": lambda r: lora(r, warm=bool(r.integers(2)))(),
    "sgd": lambda r: StreamSgd(**reading(r), chunk=int(r.integers(30, 70)), isolated=bool(r.integers(2)), sgd=sgd(r)),
    "phased": lambda r: Phased(
        lora=lora(r), boundaries=(1, 3)[: int(r.integers(1, 3))], cumulative=bool(r.integers(2)), chunk=40, sgd=sgd(r)
    ),
    "mixed": lambda r: Mixed(**reading(r), isolated=bool(r.integers(2)), document=(1, 3), trust=0.2),
}
SHALLOW = Depth(cuts=2, documents=1, layouts=1, sums=1)


def documents(random: Random, count: int) -> list[bytes]:
    letters = random.integers(97, 105, 5).astype(np.uint8)
    return [random.choice(letters, int(random.integers(4, 16))).tobytes() for _ in range(count)]


def configured(seed: int) -> tuple[str, Audit]:
    """The name of the seed's method, and its audit."""
    random = np.random.default_rng(seed)
    name = list(METHODS)[seed % len(METHODS)]
    method = METHODS[name](random)
    spec = toy_model().set("dim", 16).set("layers", 2)
    model = built(spec, seed=seed, noise=float(random.choice([0.1, 0.3])), vocab=Quarters.vocab)
    batch = int(random.choice([32, 128, 4096]))
    texts = documents(random, int(random.integers(3, 6))), documents(random, 3)
    return name, audit(lambda: refereed(model, method, batch), *texts, seed=seed, depth=SHALLOW)


def refereed(model: LM, method: Method, batch: int = 4096) -> Refereed:
    return Refereed(
        Quarters(), lambda: method.player(deepcopy(model), Quarters.vocab, choose(), ALONE), method, batch_tokens=batch
    )
