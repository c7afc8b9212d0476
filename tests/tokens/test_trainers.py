"""Tests of tokenizer training: contents of the pieces, and reproducible models."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE, TokenizerFile, sample_passages

CODE = [b"def f(x):\n    if x > %d:\n        return x\n\tpass\n\n" % i for i in range(300)]


def pieces(text: list[bytes], **options) -> list[bytes]:
    return SentencePieceTokenizer(SentencePieceBPE(vocab=400, **options).train(text)).piece_bytes


def test_it_is_lossless_and_numbers_its_control_tokens_as_the_challenge_does() -> None:
    tokenizer = SentencePieceTokenizer(SentencePieceBPE(vocab=330).train(CODE))
    assert tokenizer.lossless
    assert (tokenizer.vocab, tokenizer.bos) == (330, 1)
    assert tokenizer.piece_strings[:4] == ["<pad>", "<s>", "</s>", "<unk>"]


def test_indentation_and_newlines_are_learned() -> None:
    assert any(piece.endswith(b"\n") and piece.strip() for piece in pieces(CODE))
    assert any(piece.startswith(b"    ") for piece in pieces(CODE))


def test_pieces_cross_words_only_where_asked() -> None:
    crossing = [piece for piece in pieces(CODE, cross_word_pieces=False) if b" " in piece[1:].strip()]
    assert not crossing
    assert any(b" " in piece[1:].strip() for piece in pieces(CODE, cross_word_pieces=True))


def test_digits_are_split_where_asked() -> None:
    text = [b"year %d and 1234\n" % (1900 + i % 3) for i in range(300)]
    assert any(piece.strip().isdigit() and len(piece.strip()) > 1 for piece in pieces(text, split_digits=False))
    assert not any(piece.strip().isdigit() and len(piece.strip()) > 1 for piece in pieces(text, split_digits=True))


def test_rare_characters_fall_to_bytes() -> None:
    text = [*CODE, "日".encode()]
    assert "日".encode() not in pieces(text, character_coverage=0.99)
    assert "日".encode() in pieces(text, character_coverage=1.0)


def test_training_depends_on_the_text_and_not_on_its_order(library: list[bytes]) -> None:
    recipe = SentencePieceBPE(vocab=350, sample_bytes=100_000)
    model = recipe.train(library)
    assert recipe.train(iter(library[::-1])) == model
    assert recipe.train(library[:3]) != model


def test_text_that_the_trainer_would_skip_still_counts() -> None:
    """SentencePiece drops a sentence that contains a tab, a NUL, U+2581 or U+2585."""
    text = ["\t\0begin\u2581middle\u2585end\ufffd".encode() + b"\xff"] * 50
    assert b"begin" in pieces(text) and b"middle" in pieces(text)


def test_the_vocabulary_is_a_limit_that_a_small_text_does_not_reach() -> None:
    assert 260 < len(pieces([b"abc abc abc"])) < 280


@pytest.mark.parametrize(("text", "vocab"), [([], 400), ([b""], 400), ([b"\t\xff"], 400), (CODE, 200)])
def test_too_little_text_or_too_small_a_vocabulary_is_an_error(text: list[bytes], vocab: int) -> None:
    with pytest.raises(BitgolfError, match="no tokenizer") as error:
        SentencePieceBPE(vocab=vocab).train(text)
    assert error.value.hint


def test_a_sample_is_as_large_as_asked_and_from_everywhere(library: list[bytes]) -> None:
    taken = sample_passages(library, 60_000)
    assert 60_000 <= sum(map(len, taken)) < 60_000 + 4096
    assert sum(any(passage in document for passage in taken) for document in library) > 5
    passages = sorted(sample_passages(library, 10**9))
    assert 0.2 < sum(passage < passages[len(passages) // 2] for passage in taken) / len(taken) < 0.8
    assert taken == sample_passages(reversed(library), 60_000)
    assert passages == sorted(d[i : i + 4096] for d in library for i in range(0, len(d), 4096))


def test_a_given_tokenizer_is_the_file_or_an_error(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(tokenizer.serialized)
    assert part(TokenizerFile, path=str(path), vocab=400)().train([]) == tokenizer.serialized
    with pytest.raises(RecipeError, match="400 pieces") as error:
        TokenizerFile(path=str(path), vocab=1024).train([])
    assert "tokens.vocab=400" in error.value.hint
    with pytest.raises(BitgolfError, match="cannot be read"):
        TokenizerFile(path=str(tmp_path / "none"), vocab=400).train([])
    path.write_bytes(tokenizer.serialized[:-9])
    with pytest.raises(CorruptFileError, match="not a SentencePiece model"):
        TokenizerFile(path=str(path), vocab=400).train([])
