"""Tokenizers of a recipe: trained on a sample of its text, read from a file, or the byte tokenizer.

`train(documents)` returns a serialized tokenizer, which `loading.tokenizer_from_bytes` opens, and reports what it chose.
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import sentencepiece

from bitgolf.config.ranges import ByteCount, PositiveFraction, Range, Vocabulary
from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, RecipeError, UsageError
from bitgolf.report.findings import DataFinding
from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.character_coverage import MIN_CHARACTERS, SPACE, Alphabet, choose_alphabet, count_characters
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.passages import PASSAGE_BYTES, sample_passages

SPECIAL = ("pad", "bos", "eos", "unk")  # tokens 0 to 3
_RESERVED = re.compile("[\0\t\u2581\u2585]+")  # the trainer skips sentences with one of these

Report = Callable[[DataFinding], object]


class TokenizerTrainer(ABC):
    """Base class of the sources of a recipe's tokenizer.

    vocab: its number of tokens, or the upper limit of it. sample_bytes: size of the sample of passages that is enough to
    train it (`passages.sample_passages`), 0 if it reads no text. force: use it although its audit finds an error.
    """

    vocab: int
    sample_bytes: int = 0
    force: bool = False

    @property
    def kind(self) -> str:
        """Name of the type of the tokenizer, as `Tokenizer.kind`. Raises `BitgolfError` if its file cannot be read."""
        return "sentencepiece"

    def cache_key(self) -> list[str]:
        """Return JSON values that change when what it reads besides its settings changes."""
        return []

    @abstractmethod
    def train(self, documents: Iterable[bytes], report: Report = lambda _: None) -> bytes:
        """Return the serialized tokenizer, which `loading.tokenizer_from_bytes` opens.

        report: called with a finding about each choice that the user did not make.
        """


@register
class SentencePieceBPE(TokenizerTrainer):
    """Byte-pair encoding by SentencePiece (Kudo and Richardson 2018), configured to be lossless.

    Identity normalisation, no dummy prefix, white space kept, byte fallback; pad, bos, eos and unk are tokens 0 to 3.
    Newlines and runs of spaces may be part of a piece. vocab: upper limit, since a small text has fewer pairs to merge.
    cross_word_pieces: a piece may span several words and mix letters with punctuation, so that `):\\n        return`
    takes two tokens; otherwise each word starts a new piece. With 2,048 tokens this gives 3.01 bytes per token instead
    of 2.68 on held-out files of the Python library.
    character_coverage: the most frequent characters that make up this share of the text have tokens of their own, and
    the others are byte tokens. It is an upper limit: if they exceed the vocabulary, the most frequent ones take half of
    it. A space always has a token.
    """

    def __init__(
        self,
        *,
        vocab: Vocabulary = 2048,
        sample_bytes: ByteCount = 4_000_000,
        split_digits: bool = True,
        cross_word_pieces: bool = True,
        character_coverage: PositiveFraction = 0.9995,
    ) -> None:
        if not 0 < character_coverage <= 1:
            raise UsageError(f"character_coverage must be above 0 and at most 1, got {character_coverage}")
        self.vocab, self.sample_bytes = vocab, sample_bytes
        self.split_digits, self.cross_word_pieces, self.character_coverage = (
            split_digits,
            cross_word_pieces,
            character_coverage,
        )

    def train(self, documents: Iterable[bytes], report: Report = lambda _: None) -> bytes:
        """Return the serialized model. The result does not depend on the order of the documents.

        Takes about a second for a sample of 4 MB; a larger sample hardly helps. Raises `BitgolfError` if the text or
        the vocabulary is too small.
        """
        return self._trained(sample_passages(documents, self.sample_bytes), report)

    def _trained(self, passages: Sequence[bytes], report: Report, symbols: Sequence[str] = ()) -> bytes:
        """Return the model trained on these passages. Each of `symbols` is a separate token after the special ones."""
        alphabet = self._alphabet(passages, symbols)
        if alphabet.finding:
            report(alphabet.finding)
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(passages, _boundary(alphabet, symbols)),
                model_writer=model,
                user_defined_symbols=list(symbols),
                **self._options(alphabet),
            )
        except RuntimeError as error:
            raise self._failure(str(error), "give more text") from error
        return model.getvalue()

    def _alphabet(self, passages: Sequence[bytes], symbols: Sequence[str]) -> Alphabet:
        """Choose the characters with a token of their own. Raises `BitgolfError` if nothing can be trained."""
        fixed = len(SPECIAL) + len(symbols) + 256
        if self.vocab < fixed + MIN_CHARACTERS:
            cause = f"it needs {fixed} special and byte tokens, and {MIN_CHARACTERS} for characters"
            raise self._failure(cause, f"use a vocabulary of at least {fixed + MIN_CHARACTERS}")
        counts = count_characters(_sentences(passages))
        counts[[ord(symbol) for symbol in symbols]] = 0
        if not counts.any():
            raise self._failure("it has no characters", "give more text")
        return choose_alphabet(counts, self.character_coverage, self.vocab - fixed)

    def _failure(self, cause: str, hint: str) -> BitgolfError:
        message = f"no tokenizer of {self.vocab} pieces can be trained on this text ({cause})"
        return BitgolfError(message, where=type(self).__name__, hint=hint)

    def _options(self, alphabet: Alphabet) -> dict[str, Any]:
        """Return the options of SentencePiece's trainer."""
        return {
            "model_type": "bpe",
            "vocab_size": self.vocab,
            "hard_vocab_limit": False,
            "character_coverage": self.character_coverage if alphabet.characters is None else 1.0,
            **({} if alphabet.has_space else {"required_chars": chr(SPACE)}),
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "split_by_whitespace": not self.cross_word_pieces,
            "split_by_unicode_script": not self.cross_word_pieces,
            "split_digits": self.split_digits,
            "max_sentence_length": 4 * PASSAGE_BYTES,
            **{f"{name}_id": token for token, name in enumerate(SPECIAL)},
            "num_threads": 1,  # stored in the model, so a fixed value keeps its bytes the same
            "minloglevel": 2,
        }


@register
class CaseOpsBPE(SentencePieceBPE):
    """`SentencePieceBPE` on text with case operators (`text.caseops`), which are tokens 4 to 7.

    Source: openai/parameter-golf, pull request 1729.
    """

    @property
    def kind(self) -> str:
        return CaseOpsTokenizer.kind

    def train(self, documents: Iterable[bytes], report: Report = lambda _: None) -> bytes:
        passages = [encode_case(passage) for passage in sample_passages(documents, self.sample_bytes)]
        symbols = [operator.decode() for operator in OPERATORS]
        return caseops_tokenizer.MAGIC + self._trained(passages, report, symbols)


@register
class ByteLevel(TokenizerTrainer):
    """One token per byte, after pad, bos, eos and unk; see `tokens.byte_tokenizer`."""

    def __init__(self, *, vocab: Literal[260] = 260) -> None:
        self.vocab = vocab

    @property
    def kind(self) -> str:
        return byte_tokenizer.ByteTokenizer.kind

    def train(self, documents: Iterable[bytes], report: Report = lambda _: None) -> bytes:
        """Return the serialized byte tokenizer; the documents are not read."""
        return byte_tokenizer.MAGIC


@register
class TokenizerFile(TokenizerTrainer):
    """A tokenizer of `vocab` tokens from a file, whose contents identify its type (`loading.load_tokenizer`).

    case_operators: require that it is one for text with case operators. pattern: how a tiktoken file splits text.
    force: train with it although the audit finds an error, such as a missing piece for the space.
    """

    def __init__(
        self,
        *,
        path: str,
        vocab: Annotated[int, Range(2, 65_536)],
        case_operators: bool = False,
        pattern: str = "",
        force: bool = False,
    ) -> None:
        self.path, self.vocab, self.case_operators = path, vocab, case_operators
        self.pattern, self.force = pattern, force

    @property
    def kind(self) -> str:
        return load_tokenizer(Path(self.path), pattern=self.pattern).kind

    def cache_key(self) -> list[str]:
        """Return the digest of the file. Raises `BitgolfError` if it cannot be read."""
        return [load_tokenizer(Path(self.path), pattern=self.pattern).digest]

    def train(self, documents: Iterable[bytes], report: Report = lambda _: None) -> bytes:
        """Return the serialized tokenizer; no document is read.

        Raises `RecipeError` if its size is not `vocab`, or it has no case operators where they are required.
        """
        tokenizer = load_tokenizer(Path(self.path), pattern=self.pattern)
        if tokenizer.vocab != self.vocab:
            raise RecipeError(
                f"the tokenizer has {tokenizer.vocab:,} pieces, but tokens.vocab is {self.vocab:,}",
                where=self.path,
                hint=f"use --set tokens.vocab={tokenizer.vocab}",
            )
        if self.case_operators and tokenizer.kind != CaseOpsTokenizer.kind:
            raise RecipeError(
                "tokens.case_operators is true, but the tokenizer has no case operators",
                where=self.path,
                hint="use --set tokens.case_operators=false; the type of a file is recognized without it",
            )
        return tokenizer.serialized


def _boundary(alphabet: Alphabet, symbols: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for what separates sentences: reserved characters, and those without a token of their own."""
    if alphabet.characters is None:
        return _RESERVED
    return re.compile(f"[^{re.escape(''.join([*sorted(alphabet.characters), *symbols]))}]+")


def _sentences(passages: Iterable[bytes], boundary: re.Pattern[str] = _RESERVED) -> Iterator[str]:
    for passage in passages:
        yield from filter(None, boundary.split(passage.decode("utf-8", "ignore")))
