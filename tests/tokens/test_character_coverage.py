"""Tests of the alphabet of a trained tokenizer: a text with many characters never fails for want of vocabulary."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.tokens.audit import audit_tokenizer
from bitgolf.tokens.character_coverage import SPACE, choose_alphabet, count_characters
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import CaseOpsBPE, SentencePieceBPE, sample_passages
from helpers.examples import examples

FEW = "the same few words again, " * 40
MANY = ["".join(chr(0x4E00 + (i * i * 7 + i * j) % 3000) for i in range(300)) for j in range(60)]


def trained(trainer: SentencePieceBPE, texts: list[str] | list[bytes]) -> tuple[Tokenizer, list[DataFinding]]:
    found: list[DataFinding] = []
    documents = [text.encode() if isinstance(text, str) else text for text in texts]
    return tokenizer_from_bytes(trainer.train(documents, found.append)), found


def characters(tokenizer: Tokenizer) -> set[bytes]:
    """The tokens that are one character of more than one byte, or a space."""
    return {p for p in tokenizer.piece_bytes if len(p.decode(errors="ignore")) == 1 and (len(p) > 1 or p == b" ")}


@pytest.mark.parametrize("vocab", [1024, 2048, 4096])
@pytest.mark.parametrize("kind", [SentencePieceBPE, CaseOpsBPE])
def test_the_case_of_six_thousand_characters(kind: type[SentencePieceBPE], vocab: int, shared: Path) -> None:
    lines = (shared / "cases" / "23" / "cjk.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    tokenizer, found = trained(kind(vocab=vocab), texts)
    free = vocab - 260 - 4 * (kind is CaseOpsBPE)
    assert free // 2 - 5 <= len(characters(tokenizer)) <= free // 2 + 4 * (kind is CaseOpsBPE)
    assert free // 2 < tokenizer.vocab <= vocab
    assert [(f.rule, f.severity) for f in found] == [("character-coverage", "note")]
    assert audit_tokenizer(tokenizer, [text.encode() for text in texts[:20]]) == []


def test_the_cost_is_told_in_characters_and_bytes() -> None:
    text = ["ab" * 45 + "日本語éö cd"]  # 98 characters: a and b 45 times, the others once
    _, (finding,) = trained(SentencePieceBPE(vocab=260 + 8, character_coverage=1.0), text)
    assert finding.message == (
        "character coverage lowered from 1.0 to 0.9388, because 10 characters exceed the vocabulary: "
        "6 of 10 characters, 13.2 % of the sample's bytes, become byte tokens"
    )


def test_the_most_frequent_characters_are_kept() -> None:
    tokenizer, found = trained(SentencePieceBPE(vocab=700), MANY)
    counts = Counter("".join(MANY))
    kept = {piece.decode() for piece in characters(tokenizer)} - {" "}
    assert len(kept) == 219 and found
    assert min(counts[c] for c in kept) >= max(counts[c] for c in counts.keys() - kept)
    data = "".join(MANY).encode() + b" \xff"
    assert tokenizer.decode(tokenizer.encode(data)) == data and tokenizer.has_space


def test_a_coverage_of_any_size_is_an_upper_limit() -> None:
    sizes = []
    for coverage in (0.3, 0.9, 0.98, 1.0):
        tokenizer, found = trained(SentencePieceBPE(vocab=6000, character_coverage=coverage), MANY)
        assert found == [] and tokenizer.has_space
        sizes.append(len(characters(tokenizer)))
    assert sizes == sorted(set(sizes)) and sizes[-1] == len(set("".join(MANY))) + 1
    for coverage in (0, 1.01, -1):
        with pytest.raises(UsageError, match="character_coverage must be"):
            SentencePieceBPE(character_coverage=coverage)


@pytest.mark.parametrize(("trainer", "least"), [(SentencePieceBPE, 264), (CaseOpsBPE, 268)])
@pytest.mark.parametrize("texts", [[FEW], MANY, ["a"], ["\n\nx"], ["\r\n" * 9 + "xyzvw"], ["  "]])
def test_the_least_vocabulary_is_enough_and_one_less_is_not(
    trainer: type[SentencePieceBPE], least: int, texts: list[str]
) -> None:
    tokenizer, _ = trained(trainer(vocab=least), texts)
    assert tokenizer.vocab <= least
    data = "".join(texts).encode()
    assert tokenizer.decode(tokenizer.encode(data)) == data
    with pytest.raises(BitgolfError, match="no tokenizer") as error:
        trained(trainer(vocab=least - 1), texts)
    assert f"at least {least}" in error.value.hint


@settings(max_examples=examples(60), deadline=None)
@given(
    texts=st.lists(
        st.text(min_size=1, max_size=60) | st.text("\r\n\t 日ab", max_size=20) | st.just(FEW) | st.sampled_from(MANY),
        min_size=1,
        max_size=4,
    ),
    vocab=st.integers(264, 420),
    coverage=st.sampled_from([0.01, 0.5, 0.98, 0.9995, 1.0]),
    operators=st.booleans(),
)
def test_any_text_with_a_character_can_be_trained_on(
    texts: list[str], vocab: int, coverage: float, operators: bool
) -> None:
    trainer = (CaseOpsBPE if operators else SentencePieceBPE)(vocab=vocab + 4, character_coverage=coverage)
    documents = [text.encode("utf-8", "ignore") for text in texts]
    try:
        tokenizer = tokenizer_from_bytes(trainer.train(documents))
    except BitgolfError as error:
        assert "it has no characters" in str(error)
        assert not "".join(texts).translate(dict.fromkeys(map(ord, "\0\t\r\n\u2581\u2585\ue001\ue002\ue003\ue004")))
        return
    assert tokenizer.vocab <= vocab + 4 and tokenizer.has_space
    assert tokenizer.decode(tokenizer.encode(b"".join(documents))) == b"".join(documents)


def test_the_forecast_of_the_alphabet_is_exact() -> None:
    """Where the characters just fit, SentencePiece is left to choose them; one token less, and they are cut to half."""
    texts = [FEW, *MANY[:3]]
    counts = count_characters(texts)
    size = int(np.count_nonzero(counts))
    assert choose_alphabet(counts, 1.0, size).characters is None
    fitting, found = trained(SentencePieceBPE(vocab=260 + size, character_coverage=1.0), texts)
    assert found == [] and fitting.vocab == 260 + size
    cut, found = trained(SentencePieceBPE(vocab=260 + size - 1, character_coverage=1.0), texts)
    assert len(found) == 1 and len(characters(cut)) < len(characters(fitting))


def test_the_coverage_is_compared_in_float32_as_by_sentencepiece() -> None:
    """The first character makes up exactly 98 % of the text; the others remain only for a coverage above that."""
    text = "a" * 98 + "bc"
    assert choose_alphabet(count_characters([text]), 0.98, limit=2).characters is None
    tokenizer, _ = trained(SentencePieceBPE(vocab=400, character_coverage=0.98), [text])
    assert "a" in tokenizer.piece_strings and "b" not in tokenizer.piece_strings
    assert choose_alphabet(count_characters([text]), 0.981, limit=2).characters is not None


def test_case_operators_are_no_characters_of_the_text() -> None:
    text = "Some Words In Title Case, NASA " * 30
    encoded = encode_case(text.encode()).decode()
    size = len(set(encoded) - {operator.decode() for operator in OPERATORS})
    tokenizer, found = trained(CaseOpsBPE(vocab=264 + size, character_coverage=1.0), [text])
    assert found == [] and tokenizer.vocab == 264 + size
    _, found = trained(CaseOpsBPE(vocab=264 + size - 1, character_coverage=1.0), [text])
    assert f"{size} characters exceed" in found[0].message


def test_spaces_are_counted_as_sentencepiece_writes_them() -> None:
    counts = count_characters(["a b\n", "  b\r\n\n", "\n"])
    assert counts.shape == (0x110000,) and counts[SPACE] == 3 and counts[ord(" ")] == 0
    assert counts[ord("b")] == 2 and counts.sum() == 6


def trained_without_a_choice(passages: list[bytes], vocab: int, coverage: float) -> bytes:
    """SentencePiece called as it was before character coverage yielded to the vocabulary."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(
            s for p in passages for s in re.split("[\0\t\u2581\u2585]+", p.decode("utf-8", "ignore")) if s
        ),
        model_writer=model,
        user_defined_symbols=[],
        model_type="bpe",
        vocab_size=vocab,
        hard_vocab_limit=False,
        character_coverage=coverage,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_digits=True,
        max_sentence_length=16384,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize(("vocab", "coverage"), [(400, 0.9995), (2048, 0.9995), (1024, 0.98), (2048, 1.0)])
def test_tokenizers_that_could_always_be_trained_are_the_same_to_the_byte(
    vocab: int, coverage: float, library: list[bytes]
) -> None:
    trainer = SentencePieceBPE(vocab=vocab, sample_bytes=200_000, character_coverage=coverage)
    expected = trained_without_a_choice(sample_passages(library, 200_000), vocab, coverage)
    assert trainer.train(library) == expected
