"""N-gram mixing around a method that adapts: the logits of that method are mixed, and it learns as it does alone."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.lm import LM
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_mixing import NGramMixing, NGramMixingPlayer
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.methods import ScoringMethod, SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.toy import VOCAB, built, toy_model

LORA: dict[str, Any] = {"window": 12, "stride": 4, "rows": 1, "rank": 2, "lr": 0.05, "target_modules": ("head", "q")}
SGD = part(StreamSGD, window=12, stride=6, chunk=20, adaptation=part(SGDAdaptation, lr=0.05, epochs=1))
PHASED = part(
    PhasedLoRA,
    lora=part(DocumentLoRA, **LORA),
    boundaries=(2,),
    chunk=12,
    sgd=part(SGDAdaptation, split_documents=True),
)
METHODS: dict[str, Spec[ScoringMethod]] = {"lora": part(DocumentLoRA, **LORA), "phased": PHASED, "sgd": SGD}


@pytest.fixture(scope="module")
def model() -> LM:
    return built(toy_model().set("layers", 1), noise=0.05)


@pytest.fixture(scope="module")
def text() -> TokenizedText:
    phrase = np.random.default_rng(1).integers(2, VOCAB, 9).tolist()
    ids = [token for _ in range(4) for token in (1, *phrase, *phrase[:5])]
    return TokenizedText(append_final_bos(np.array(ids), 1), 2 * len(ids))


def charges(model: LM, text: TokenizedText, method: ScoringMethod, *, shut: bool = False) -> np.ndarray:
    """Bits of each target. shut: all mixing weights are 0 and stay so."""
    found = np.zeros(text.num_targets)
    with closing(method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)) as player:
        if shut:
            assert isinstance(player, NGramMixingPlayer)
            player.gates.weight[:] = 0
        score(player, text, method, charges=found)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_with_shut_gates_it_is_the_method_alone(model: LM, text: TokenizedText, name: str) -> None:
    mixed = NGramMixing(method=METHODS[name])
    assert (charges(model, text, mixed, shut=True) == charges(model, text, METHODS[name]())).all()
    assert mixed.without_adaptation() == METHODS[name]().without_adaptation()


@pytest.mark.parametrize("name", METHODS)
def test_both_gains_add_up(model: LM, text: TokenizedText, name: str) -> None:
    """The mixture is better than the method alone, and differs from a mixture with the model alone."""
    method = METHODS[name]()
    both, alone = charges(model, text, NGramMixing(method=METHODS[name])), charges(model, text, method)
    plain = charges(model, text, NGramMixing(window=method.window, stride=method.stride))
    assert both.sum() < 0.8 * alone.sum() and abs(both - plain).max() > 0.01


def test_the_model_is_restored(model: LM, text: TokenizedText) -> None:
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    charges(model, text, NGramMixing(method=SGD))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    "method",
    [
        part(DocumentLoRA, **LORA).replace(rows=2),
        part(DocumentLoRA, **LORA, keep_a=True),
        SGD.replace(isolated=True),
        part(SlidingScoring),
    ],
)
def test_a_method_that_does_not_read_in_order_is_refused(method: Spec[ScoringMethod]) -> None:
    with pytest.raises(RecipeError, match="side by side"):
        NGramMixing(method=method)
