"""Where a recipe's tokenizer comes from: trained on a sample of its text, a file, or nowhere.

Each has a `vocab`, and `train(documents)` gives what `kinds.tokenizer_from_bytes` opens.
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Literal

import sentencepiece

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.text.documents import document_fingerprint
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.loading import load_tokenizer

PASSAGE_BYTES = 4096  # bytes: what is sampled, and the longest stretch that a piece is looked for in
_RESERVED = re.compile("[\0\t\u2581\u2585]+")  # the trainer skips a whole sentence for one of these


class TokenizerTrainer(ABC):
    """Where a recipe's tokenizer comes from. `vocab`: its number of tokens, or the most that it may have."""

    vocab: int

    @abstractmethod
    def train(self, documents: Iterable[bytes]) -> bytes:
        """The tokenizer's bytes, which `tokens.loading.tokenizer_from_bytes` opens."""


@register
class SentencePieceBPE(TokenizerTrainer):
    """Byte-pair encoding by SentencePieceTokenizer (Kudo and Richardson 2018), set up so that nothing is lost.

    Identity normalisation, no dummy prefix, white space kept, bytes for what has no piece; pad, bos, eos, unk are 0 to 3.
    Newlines and runs of spaces are ordinary characters of a piece. `cross_word_pieces` also lets a piece hold several words
    and mix letters with punctuation: `):\\n        return` costs two tokens then, where each word starts a new one otherwise
    (3.01 bytes a token against 2.68 on held-out files of the Python library, at 2048). `vocab` is an upper limit: a small text has fewer pairs to merge.
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
        """The serialized model. The same documents give the same bytes, in whatever order they come.

        About a second for a sample of 4 MB; a larger one hardly helps. Raises `BitgolfError` where the text or the vocabulary is too small.
        """
        return self._trained(sample_passages(documents, self.sample_bytes))

    def _trained(self, passages: Iterable[bytes], symbols: Sequence[str] = ()) -> bytes:
        """The model of these passages; each of the symbols is a token, after the special ones, and never part of another."""
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
                num_threads=1,  # the serialized model names it
                minloglevel=2,
            )
        except RuntimeError as error:
            raise BitgolfError(
                f"no tokenizer of {self.vocab} pieces can be trained on this text ({error})",
                where=type(self).__name__,
                hint="a vocabulary of 320 or more, and some text",
            ) from error
        return model.getvalue()


@register
class CaseOpsBPE(SentencePieceBPE):
    """The same on text whose capitals are written as operators (`text.caseops`), which are tokens 4 to 7.

    Source: openai/parameter-golf, pull request 1729.
    """

    def train(self, documents: Iterable[bytes]) -> bytes:
        passages = map(encode_case, sample_passages(documents, self.sample_bytes))
        return caseops_tokenizer.MAGIC + self._trained(passages, [operator.decode() for operator in OPERATORS])


@register
class ByteLevel(TokenizerTrainer):
    """A token for each byte, after pad, bos, eos and unk."""

    def __init__(self, *, vocab: Literal[260] = 260) -> None:
        self.vocab = vocab

    def train(self, documents: Iterable[bytes]) -> bytes:
        """Nothing is learned, and no document is read."""
        return byte_tokenizer.MAGIC


@register
class TokenizerFile(TokenizerTrainer):
    """A tokenizer of `vocab` tokens from a file, as it is: a published one, or one trained before.

    case_operators: it is a bare SentencePieceTokenizer model that was trained on text with case operators, as published ones are.
    """

    def __init__(self, *, path: str, vocab: int, case_operators: bool = False) -> None:
        self.path, self.vocab, self.case_operators = path, vocab, case_operators

    def train(self, documents: Iterable[bytes]) -> bytes:
        """The bytes of the file; the documents are not read. Raises `RecipeError` where its vocabulary is another."""
        tokenizer = load_tokenizer(Path(self.path), case_operators=self.case_operators)
        if tokenizer.vocab != self.vocab:
            raise RecipeError(
                f"the tokenizer has {tokenizer.vocab:,} pieces, and the recipe says {self.vocab:,}",
                where=self.path,
                hint=f"--set tokens.vocab={tokenizer.vocab}",
            )
        return tokenizer.serialized


def sample_passages(documents: Iterable[bytes], size: int) -> list[bytes]:
    """Passages of up to `PASSAGE_BYTES` bytes from all over the documents, `size` bytes of them or what there is.

    Those with the least fingerprints are kept (bottom-k sampling), so the sample depends on no seed and on no order,
    and memory holds no more than it.
    """
    kept: list[tuple[int, bytes]] = []  # a heap with the greatest fingerprint on top
    total = 0
    for document in documents:
        for start in range(0, len(document), PASSAGE_BYTES):
            passage = document[start : start + PASSAGE_BYTES]
            heappush(kept, (-int.from_bytes(document_fingerprint(passage), "big"), passage))
            total += len(passage)
            while total - len(kept[0][1]) >= size:
                total -= len(heappop(kept)[1])
    return [passage for _, passage in sorted(kept, reverse=True)]


def _sentences(passages: Iterable[bytes]) -> Iterator[str]:
    for passage in passages:
        yield from filter(None, _RESERVED.split(passage.decode("utf-8", "ignore")))
