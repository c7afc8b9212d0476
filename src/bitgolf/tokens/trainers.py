"""Tokenizers of a recipe: trained on a sample of its text, read from a file, or the byte tokenizer.

`train(documents)` returns a serialized tokenizer, which `loading.tokenizer_from_bytes` opens.
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.passages import PASSAGE_BYTES, sample_passages

_RESERVED = re.compile("[\0\t\u2581\u2585]+")  # the trainer skips sentences with one of these


class TokenizerTrainer(ABC):
    """Base class of the sources of a recipe's tokenizer.

    vocab: its number of tokens, or the upper limit of it. sample_bytes: size of the sample of passages that is enough to
    train it (`passages.sample_passages`), 0 if it reads no text.
    """

    vocab: int
    sample_bytes: int = 0

    @abstractmethod
    def train(self, documents: Iterable[bytes]) -> bytes:
        """Return the serialized tokenizer, which `loading.tokenizer_from_bytes` opens."""


@register
class SentencePieceBPE(TokenizerTrainer):
    """Byte-pair encoding by SentencePiece (Kudo and Richardson 2018), configured to be lossless.

    Identity normalisation, no dummy prefix, white space kept, byte fallback; pad, bos, eos and unk are tokens 0 to 3.
    Newlines and runs of spaces may be part of a piece. vocab: upper limit, since a small text has fewer pairs to merge.
    cross_word_pieces: a piece may span several words and mix letters with punctuation, so that `):\\n        return`
    takes two tokens; otherwise each word starts a new piece. With 2,048 tokens this gives 3.01 bytes per token instead
    of 2.68 on held-out files of the Python library.
    """

    def __init__(
        self,
        *,
        vocab: int = 2048,
        sample_bytes: int = 4_000_000,
        split_digits: bool = True,
        cross_word_pieces: bool = True,
        character_coverage: float = 0.9995,
    ) -> None:
        self.vocab, self.sample_bytes = vocab, sample_bytes
        self.split_digits, self.cross_word_pieces, self.character_coverage = (
            split_digits,
            cross_word_pieces,
            character_coverage,
        )

    def train(self, documents: Iterable[bytes]) -> bytes:
        """Return the serialized model. The result does not depend on the order of the documents.

        Takes about a second for a sample of 4 MB; a larger sample hardly helps. Raises `BitgolfError` if the text or
        the vocabulary is too small.
        """
        return self._trained(sample_passages(documents, self.sample_bytes))

    def _trained(self, passages: Iterable[bytes], symbols: Sequence[str] = ()) -> bytes:
        """Return the model trained on these passages. Each of `symbols` is a separate token after the special ones."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(passages),
                model_writer=model,
                user_defined_symbols=list(symbols),
                model_type="bpe",
                vocab_size=self.vocab,
                hard_vocab_limit=False,
                character_coverage=self.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_by_whitespace=not self.cross_word_pieces,
                split_by_unicode_script=not self.cross_word_pieces,
                split_digits=self.split_digits,
                max_sentence_length=4 * PASSAGE_BYTES,
                **dict(zip(("pad_id", "bos_id", "eos_id", "unk_id"), range(4), strict=True)),
                num_threads=1,  # stored in the model, so a fixed value keeps its bytes the same
                minloglevel=2,
            )
        except RuntimeError as error:
            raise BitgolfError(
                f"no tokenizer of {self.vocab} pieces can be trained on this text ({error})",
                where=type(self).__name__,
                hint="use a vocabulary of at least 320, or more text",
            ) from error
        return model.getvalue()


@register
class CaseOpsBPE(SentencePieceBPE):
    """`SentencePieceBPE` on text with case operators (`text.caseops`), which are tokens 4 to 7.

    Source: openai/parameter-golf, pull request 1729.
    """

    def train(self, documents: Iterable[bytes]) -> bytes:
        passages = map(encode_case, sample_passages(documents, self.sample_bytes))
        return caseops_tokenizer.MAGIC + self._trained(passages, [operator.decode() for operator in OPERATORS])


@register
class ByteLevel(TokenizerTrainer):
    """One token per byte, after pad, bos, eos and unk; see `tokens.byte_tokenizer`."""

    def __init__(self, *, vocab: Literal[260] = 260) -> None:
        self.vocab = vocab

    def train(self, documents: Iterable[bytes]) -> bytes:
        """Return the serialized byte tokenizer; the documents are not read."""
        return byte_tokenizer.MAGIC


@register
class TokenizerFile(TokenizerTrainer):
    """A tokenizer of `vocab` tokens from a file.

    case_operators: the file is a plain SentencePiece model that was trained on text with case operators, as published.
    """

    def __init__(self, *, path: str, vocab: int, case_operators: bool = False) -> None:
        self.path, self.vocab, self.case_operators = path, vocab, case_operators

    def train(self, documents: Iterable[bytes]) -> bytes:
        """Return the bytes of the file; no document is read. Raises `RecipeError` if its size is not `vocab`."""
        tokenizer = load_tokenizer(Path(self.path), case_operators=self.case_operators)
        if tokenizer.vocab != self.vocab:
            raise RecipeError(
                f"the tokenizer has {tokenizer.vocab:,} pieces, but tokens.vocab is {self.vocab:,}",
                where=self.path,
                hint=f"use --set tokens.vocab={tokenizer.vocab}",
            )
        return tokenizer.serialized


def _sentences(passages: Iterable[bytes]) -> Iterator[str]:
    for passage in passages:
        yield from filter(None, _RESERVED.split(passage.decode("utf-8", "ignore")))
