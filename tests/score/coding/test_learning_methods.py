"""Coding with methods that learn while they are scored: the coder follows their own plan with their own player."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import SGDAdaptation
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.adapt.ngram_tilt import NGramTilt
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.cached import CachedScoring
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.compress import compress, decompress
from bitgolf.score.coding.open_predictor import CPU_FLOAT32, batch_tokens, default_method, is_serial, num_rows
from bitgolf.score.document_order import LongestFirstOrder
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.text import tokenize_documents
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from helpers.examples import examples
from helpers.toy import built, toy_model

ROWS = 3
LORA: dict[str, Any] = {"window": 12, "stride": 4, "rows": 2, "rank": 2, "lr": 0.05, "target_modules": ("head", "q")}
SGD = part(SGDAdaptation, lr=0.05, epochs=1, split_documents=True)
SLIDING = part(SlidingScoring, window=12, stride=4, isolated=True)
METHODS: dict[str, Spec[ScoringMethod]] = {
    "lora": part(DocumentLoRA, **LORA),
    "lora with whole windows": part(DocumentLoRA, **LORA, full_windows=True),
    "lora with kept A": part(DocumentLoRA, **LORA, keep_a=True),
    "lora with short documents": part(DocumentLoRA, **LORA, full_windows=True, short_documents=((6, 2),)),
    "phased": part(
        PhasedLoRA, lora=part(DocumentLoRA, **LORA, order=part(LongestFirstOrder)), boundaries=(2, 4), chunk=12, sgd=SGD
    ),
    "sgd": part(StreamSGD, window=12, stride=6, chunk=24, adaptation=SGD),
    "sgd on isolated documents": part(StreamSGD, window=12, stride=6, chunk=24, isolated=True, adaptation=SGD),
    "mixed": part(NGramMixing, window=12, stride=4),
    "mixed adapters": part(NGramMixing, method=part(DocumentLoRA, **LORA).replace(rows=1)),
    "mixed descent": part(NGramMixing, method=part(StreamSGD, window=12, stride=6, chunk=24, adaptation=SGD)),
    "mixed in isolated documents": part(NGramMixing, window=12, stride=4, isolated=True),
    "cached": part(CachedScoring, window=12, stride=5),
    "cached in isolated documents": part(CachedScoring, window=12, stride=4, isolated=True),
    "tilted": part(NGramTilt, method=SLIDING, length=2),
    "tilted adapters": part(NGramTilt, method=part(DocumentLoRA, **LORA), length=2),
    "whole windows": part(SlidingScoring, window=12, stride=4, isolated=True, full_windows=True),
}
DOCUMENTS = [b"abcabcabcabcab", b"", b"x", b"abcabcaXcabcabc", b"a rose is a rose", b"\xff\0"]
NAMES = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    tokenizer = ByteTokenizer()
    model = built(toy_model().set("layers", 1), vocab=tokenizer.vocab, noise=0.05)
    return TextCodec(model, tokenizer, b"12345678", tuple(METHODS.values()))


def coded(codec: TextCodec, documents: list[bytes], method: Spec[ScoringMethod], **words: Any) -> tuple[bytes, float]:
    made = compress(codec, codec.tokenizer.encode_documents(documents), method=method, rows=ROWS, **words)
    return made.data, made.bits


def referee_bits(codec: TextCodec, documents: list[bytes], method: Spec[ScoringMethod]) -> float:
    """The bits of the documents in the order of the method, with the same plan as the coder."""
    made, (text, _) = method(), method().order.apply(tokenize_documents(documents, codec.tokenizer))
    tokens = batch_tokens(made, num_rows(made, ROWS, len(documents)))
    with closing(made.make_player(codec.model, codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        return score(player, text, made, batch_tokens=tokens).bits


@NAMES
def test_what_is_coded_is_what_is_scored(codec: TextCodec, name: str) -> None:
    """Every document comes back, and the predicted bits are the referee's."""
    method = METHODS[name]
    data, bits = coded(codec, DOCUMENTS, method, portable=False)
    assert bits == pytest.approx(referee_bits(codec, DOCUMENTS, method), rel=1e-5)
    assert decompress(codec, data) == DOCUMENTS


@NAMES
def test_learning_changes_the_bits(codec: TextCodec, name: str) -> None:
    """Otherwise the test above would not see that a coder learns at the right time."""
    made = METHODS[name]()
    without = made.without_adaptation()
    if without is None:
        assert not made.adapts
        return
    bits = [referee_bits(codec, DOCUMENTS, method) for method in (METHODS[name], without)]
    assert abs(bits[0] - bits[1]) > 1e-3 * bits[1]


FEW = settings(max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(st.lists(st.binary(max_size=14), max_size=4), st.sampled_from(list(METHODS)))
def test_any_documents_come_back(codec: TextCodec, documents: list[bytes], name: str) -> None:
    assert decompress(codec, coded(codec, documents, METHODS[name], portable=False)[0]) == documents


@pytest.mark.parametrize("name", ["sgd", "mixed", "lora with kept A"])
def test_one_changed_weight_is_caught(codec: TextCodec, name: str) -> None:
    """Also if the decoder learns, and so would drift from then on."""
    data, _ = coded(codec, DOCUMENTS, METHODS[name], portable=False)
    other = built(toy_model().set("layers", 1), vocab=codec.tokenizer.vocab, noise=0.05)
    with torch.no_grad():
        other.embed.weight[ord("c"), 3] += 0.1
    with pytest.raises(BitgolfError, match="computes other probabilities"):
        decompress(codec._replace(model=other), data)


def test_the_model_is_as_before(codec: TextCodec) -> None:
    before = {name: weight.clone() for name, weight in codec.model.named_parameters()}
    coded(codec, DOCUMENTS, METHODS["sgd"], portable=False)
    coded(codec, DOCUMENTS, METHODS["phased"], portable=False)
    assert all(torch.equal(before[name], weight) for name, weight in codec.model.named_parameters())


# ---- arithmetic, defaults and refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cached in isolated documents", "tilted", "whole windows"])
def test_methods_without_gradients_are_portable(codec: TextCodec, name: str) -> None:
    made = compress(codec, codec.tokenizer.encode_documents(DOCUMENTS[:2]), method=METHODS[name], rows=ROWS)
    assert made.arithmetic == "portable-1" and decompress(codec, made.data) == DOCUMENTS[:2]


@pytest.mark.parametrize("name", ["sgd", "phased", "mixed", "tilted adapters"])
def test_the_others_are_native_and_say_why(codec: TextCodec, name: str) -> None:
    with pytest.raises(UsageError, match=r"updates weights|computes mixtures"):
        coded(codec, [b"a"], METHODS[name], portable=True)
    assert compress(codec, [np.array([5], np.int32)], method=METHODS[name]).arithmetic == "native"


def test_serial_methods_are_no_default() -> None:
    serial = {name for name, method in METHODS.items() if is_serial(method())}
    assert serial == {
        "sgd",
        "sgd on isolated documents",
        "mixed",
        "mixed adapters",
        "mixed descent",
        "mixed in isolated documents",
        "cached",
        "tilted",
    }
    assert default_method([SLIDING, METHODS["mixed"], METHODS["sgd"]]) == SLIDING
    assert default_method([METHODS["mixed"]])().window == 12
    assert isinstance(default_method([METHODS["mixed"]])(), ContiguousScoring)


class Unfollowed(CachedScoring):
    """A method of a user, whose player predicts whole windows only."""

    def make_player(self, *args: Any, **words: Any) -> Any:
        player = super().make_player(*args, **words)

        class Whole:
            vocab, forward, predict = player.vocab, None, player.predict
            observe, adapt, close = player.observe, player.adapt, player.close

        return Whole()


class Impatient(NGramTilt):
    """A plan of which a step needs the tokens of a later one."""

    def sections(self, text: Any, batch_tokens: int) -> Any:
        (section,) = super().sections(text, batch_tokens)
        (batch,) = section.batches
        yield section._replace(batches=[batch._replace(texts=batch.texts[::-1])])


def test_what_cannot_be_coded_is_one_clear_error(codec: TextCodec) -> None:
    own = (part(Unfollowed, window=12, stride=4), part(Impatient, method=SLIDING, length=2))
    user = codec._replace(methods=own)
    with pytest.raises(UsageError, match="Whole has no `predict_next`, so a decoder cannot compute"):
        coded(user, DOCUMENTS, own[0])
    with pytest.raises(BitgolfError, match="needs tokens of a later step, so no decoder can follow it"):
        coded(user, DOCUMENTS, own[1])
    with pytest.raises(UsageError, match="is not in the artifact, so a decoder cannot reconstruct it"):
        coded(user, DOCUMENTS, METHODS["mixed"])
