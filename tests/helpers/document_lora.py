"""Small documents, per-document LoRA at toy size, and what it is charged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bitgolf.config.spec import part
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.referee import Score, score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

LOOPED = (
    toy_model()
    .set("layers", 2)
    .set("layer_schedule", part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=1, since=(0.0,))))
)
SECOND: dict[str, Any] = {
    "target_modules": ("head", "q", "k", "v", "mixer", "mlp"),
    "betas": (0.0, 0.99),
    "weight_decay": 0.5,
}
Documents = list[npt.NDArray[np.integer]]


def documents(*, seed: int = 0, lengths: Sequence[int] = (30, 9, 47, 1, 22, 38, 16)) -> Documents:
    """Documents of six distinct tokens each, with BOS first."""
    rng = np.random.default_rng(seed)
    return [np.append(1, rng.choice(rng.integers(2, VOCAB, 6), n)) for n in lengths]


def text_of(documents: Documents) -> TokenizedText:
    stream = np.concatenate(documents)
    return TokenizedText(append_final_bos(stream, 1), 3 * len(stream))


def lora(**changes: Any) -> DocumentLoRA:
    return DocumentLoRA(**({"window": 16, "stride": 5, "rows": 3, "rank": 2, "lr": 0.02} | changes))


def charges(method: ScoringMethod, text: TokenizedText, model: LM | None = None) -> npt.NDArray[np.float64]:
    """Bits of each target, (targets,)."""
    return played(method, text, model or built(LOOPED).double())[1]


def played(method: ScoringMethod, text: TokenizedText, model: LM) -> tuple[Score, npt.NDArray[np.float64]]:
    found = np.zeros(text.num_targets)
    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    try:
        return score(player, text, method, charges=found), found
    finally:
        player.close()
