"""The code of a folder: the modules `modeling` and `tokenization`, each with all that it needs, as one file."""

from __future__ import annotations

from typing import Any

from bitgolf import __version__
from bitgolf.export.library import library_source
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.huggingface_tokenizer import HuggingFaceTokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tiktoken_tokenizer import TiktokenTokenizer
from bitgolf.tokens.tokenizer import Tokenizer

MODELING, TOKENIZATION = "modeling_bitgolf", "tokenization_bitgolf"
"""Names of the two modules of a folder."""
TOKENIZERS: tuple[type[Tokenizer], ...] = (
    SentencePieceTokenizer,
    CaseOpsTokenizer,
    ByteTokenizer,
    HuggingFaceTokenizer,
    TiktokenTokenizer,
)
HEADING = "Made by bitgolf {version} (`bitgolf to-hf`). It needs transformers and what it imports, and not bitgolf."


def modeling_source(model: Any) -> str:
    """Return the module with the classes of a model. model: its JSON form."""
    module = "bitgolf.huggingface.modeling"
    roots = [(module, "BitgolfForCausalLM"), (module, "BitgolfConfig")]
    return library_source(roots, model, heading=HEADING.format(version=__version__))


def tokenization_source(tokenizer: Tokenizer) -> str:
    """Return the module with the class of a tokenizer, which opens files of the same kind."""
    roots = [("bitgolf.huggingface.tokenization", "BitgolfTokenizer")]
    opened = next(cls for cls in TOKENIZERS if type(tokenizer) is cls)
    replaced = {("bitgolf.tokens.loading", "tokenizer_from_bytes"): (opened.__module__, opened.__name__)}
    return library_source(roots, {}, replaced, heading=HEADING.format(version=__version__))
