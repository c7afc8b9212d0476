"""What a proof claims: the score of a text with a method of an artifact, in groups of documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.score.coding.arithmetic import choose_arithmetic
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.open_predictor import has_plain_windows
from bitgolf.score.methods import ScoringMethod
from bitgolf.score.text import TokenizedText
from bitgolf.tokens.tokenizer import Ids, Tokenizer


class DocumentGroup(NamedTuple):
    """Documents that are compressed to one file: their tokens without BOS, and their targets start … stop-1."""

    number: int
    start: int
    stop: int
    documents: list[Ids]

    def decode(self, tokenizer: Tokenizer) -> list[bytes]:
        """The bytes of each document."""
        return [tokenizer.decode(document) for document in self.documents]


class ProofTask(NamedTuple):
    """The claim to prove: the score of `text` with a method of the artifact. Plain windows have isolated documents.

    artifact: path of its file. group_targets: minimum targets per group. rows: documents coded side by side.
    portable: the arithmetic of the compressed files, see `choose_arithmetic`. The score is computed by torch.
    """

    artifact: Path
    codec: TextCodec
    text: TokenizedText
    method: Spec[ScoringMethod]
    group_targets: int = 200_000  # so that the overhead per file, at most 100 bytes, is 0.1 % of its payload
    rows: int = 64
    portable: bool | None = None

    @property
    def arithmetic(self) -> str:
        """Name of the arithmetic of the compressed files. Raises `UsageError` if the method cannot be coded in it."""
        return choose_arithmetic(self.proved_method, self.portable).name

    @property
    def proved_method(self) -> ScoringMethod:
        """The method as it is scored and compressed: plain windows with isolated documents, others as they are."""
        made = self.method()
        isolates = has_plain_windows(made) and "isolated" in self.method.kwargs
        return self.method.replace(isolated=True)() if isolates else made


def leading_documents(text: TokenizedText, tokenizer: Tokenizer, size: int) -> TokenizedText:
    """The shortest prefix of whole documents that has at least `size` bytes, or the whole text."""
    total, end = 0, 0
    for start, stop in text.documents():
        total, end = total + len(tokenizer.decode(text.tokens[start + 1 : stop])), stop
        if total >= size:
            break
    return text._replace(tokens=text.tokens[: end + 1], bytes=total)


def group_documents(claim: ProofTask) -> Iterator[DocumentGroup]:
    """Consecutive documents in groups of at least `claim.group_targets` targets; the last group may have fewer.

    There is one group if earlier documents change the score of later ones.
    Raises `BitgolfError` if the text does not begin with BOS, or its byte count is not that of its decoded tokens.
    """
    text, tokenizer = claim.text, claim.codec.tokenizer
    if not text.num_targets or text.tokens[0] != text.bos:
        cause = f"the text must begin with a document (BOS is {text.bos}), but begins with {text.tokens[:1].tolist()}"
        raise BitgolfError(cause, where="compress --proof")
    size = len(tokenizer.decode(text.tokens))
    if size != text.bytes:
        cause = f"the byte count of the text is {text.bytes:,}, but its tokens decode to {size:,} bytes"
        raise BitgolfError(cause, where="compress --proof", hint="pass raw text with --text")
    documents, number, start = list[Ids](), 0, 0
    least = text.num_targets if claim.proved_method.cross_document else claim.group_targets
    for begin, stop in text.documents():
        documents.append(text.tokens[begin + 1 : stop].astype(np.int32))
        if stop - start >= least or stop == text.num_targets:
            yield DocumentGroup(number, start, stop, documents)
            documents, number, start = [], number + 1, stop
