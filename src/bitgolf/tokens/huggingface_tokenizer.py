"""Tokenizers in the format `tokenizer.json` of Hugging Face, with the exact bytes of each token.

Only byte-level byte-pair encoding is supported, as in GPT-2, Llama 3 and Qwen: every token is a sequence of bytes, so
bytes are counted exactly. `encode` leaves out the file's normaliser and space in front, and reads the names of special
tokens in a text as plain text. `encode_normalised` uses the file as it is, except for those names.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bitgolf.errors import BitgolfError, CorruptFileError, error_location
from bitgolf.tokens.byte_level import bytes_of_piece
from bitgolf.tokens.text_encoding import TextTokenizer, import_package, readable_text
from bitgolf.tokens.tokenizer import Ids

BOS_NAMES = ("<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "<bos>", "<s>", "[BOS]", "<|endoftext|>")
"""Special tokens that start a document, the first one that a file has, if it does not state one itself."""


class HuggingFaceTokenizer(TextTokenizer):
    """Tokenizer of a file `tokenizer.json`. `piece_strings` are in the alphabet of `tokens.byte_level`.

    Special tokens have no bytes; other added tokens have those of their content. bos: the token that the file's
    post-processor puts first, otherwise one of `BOS_NAMES`, otherwise -1. Ids without a token have no bytes and the
    name "". Raises `CorruptFileError` for another file, and `BitgolfError` for another kind of model, or if the package
    `tokenizers` is missing.
    """

    kind = "huggingface"

    def __init__(self, serialized: bytes, *, where: str = "tokenizer") -> None:
        with error_location(where):
            settings = _read(serialized)
            plain = _without_normaliser(settings)
            self._normalises = settings != plain
            self._own = _open(settings)
            self._exact = _open(plain) if self._normalises else self._own
            super().__init__(serialized, where)
            self._set_pieces(settings)
        self._use_byte_tokens()
        self.has_space = b" " in self.piece_bytes

    def _set_pieces(self, settings: dict[str, Any]) -> None:
        pieces: dict[int, str] = {token: piece for piece, token in self._own.get_vocab().items()}
        added = {token["id"]: token for token in settings["added_tokens"]}
        vocab = range(max(pieces, default=-1) + 1)
        self.piece_strings = [pieces.get(token, "") for token in vocab]
        self.bos = _bos(settings, self._own.token_to_id)
        special = {self.bos, *(token for token, fields in added.items() if fields["special"])}
        self.is_boundary = np.array([token in special or token not in pieces for token in vocab], np.bool_)
        self.piece_bytes = [
            b"" if self.is_boundary[token] else piece.encode() if token in added else bytes_of_piece(piece)
            for token, piece in enumerate(self.piece_strings)
        ]
        self.byte_lengths = np.array([len(piece) for piece in self.piece_bytes], np.int64)
        self.is_byte = (self.byte_lengths == 1) & ~np.isin(np.arange(self.vocab), list(added))

    @property
    def lossless(self) -> bool:
        """Whether the file has neither a normaliser nor a space in front, and a token for each byte."""
        return self.byte_fallback and not self._normalises

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        return [self._exact.encode(text, add_special_tokens=False).ids for text in texts]

    def normalised(self, data: bytes) -> bytes:
        return self.decode(self.encode_normalised(data)[0])

    def encode_normalised(self, data: bytes) -> tuple[Ids, int]:
        """Return the token ids by the file's own settings, and the number of raw bytes that they lack.

        Bytes are compared as a multiset of characters: those that the tokens decode to, and those of `data`.
        """
        ids = np.array(self._own.encode(readable_text(data), add_special_tokens=False).ids, np.int32)
        kept = self.decode(ids)
        return ids, 0 if kept == data else max(1, _missing_bytes(data, kept))


def _missing_bytes(data: bytes, kept: bytes) -> int:
    """Return the number of bytes of the characters of `data` that occur less often in `kept`."""
    before, after = (Counter(text.decode("utf-8", "surrogateescape")) for text in (data, kept))
    missing = "".join((before - after).elements())
    return len(missing.encode("utf-8", "surrogateescape"))


# ---- the file ------------------------------------------------------------------------------------------------------


def _read(serialized: bytes) -> dict[str, Any]:
    """Return the settings in a file. Raises `CorruptFileError` or `BitgolfError` if they are not supported."""
    try:
        settings = json.loads(serialized)
        model, added = settings["model"], settings.setdefault("added_tokens", [])
        assert isinstance(model["vocab"], dict) or "type" in model
        assert all({"id", "content", "special"} <= token.keys() for token in added)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise CorruptFileError("not a tokenizer.json of Hugging Face") from error
    _check_supported(settings)
    model["dropout"] = None  # it would choose merges at random
    return {"normalizer": None, "post_processor": None, **settings, "truncation": None, "padding": None}


def _check_supported(settings: dict[str, Any]) -> None:
    model = settings["model"]
    steps = {name: [step.get("type") for step in _steps(settings.get(name))] for name in ("pre_tokenizer", "decoder")}
    affixes = [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    byte_level = all("ByteLevel" in types for types in steps.values())
    if model.get("type", "BPE") == "BPE" and byte_level and not affixes:
        return
    found = f"model {model.get('type', 'BPE')}, " + ", ".join(
        f"{name} {'+'.join(map(str, types)) or 'none'}" for name, types in steps.items()
    )
    raise BitgolfError(
        f"only byte-level BPE is supported in a tokenizer.json; this one has {', '.join([found, *affixes])}",
        hint="use a tokenizer of GPT-2's type (model BPE, pre-tokenizer and decoder ByteLevel), or a SentencePiece model",
    )


def _steps(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a pre-tokenizer, decoder, normaliser or post-processor, which may be sequences."""
    if isinstance(node, dict):
        inner = [node.get(name) for name in ("pretokenizers", "decoders", "normalizers", "processors")]
        parts: Sequence[Any] = next((part for part in inner if isinstance(part, list)), [])
        yield node
        for part in parts:
            yield from _steps(part)


def _without_normaliser(settings: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy({**settings, "normalizer": None})
    for step in _steps(changed["pre_tokenizer"]):
        if step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    return changed


def _open(settings: dict[str, Any]) -> Any:
    """Return the object of the package `tokenizers`, which reads names of special tokens in a text as plain text."""
    package = import_package("tokenizers", "a tokenizer.json")
    try:
        opened = package.Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # the package raises no class of its own
        raise CorruptFileError(f"not a tokenizer.json of Hugging Face ({error})") from error
    opened.encode_special_tokens = True
    return opened


def _bos(settings: dict[str, Any], token_to_id: Any) -> int:
    """Return the id of the token that starts a document, -1 if the file has none."""
    special = [token["content"] for token in settings["added_tokens"] if token["special"]]
    stated = [name for step in _steps(settings["post_processor"]) if (name := _first_token(step))]
    names = [*stated, *(name for name in BOS_NAMES if name in special)]
    return next((found for name in names if (found := token_to_id(name)) is not None), -1)


def _first_token(step: dict[str, Any]) -> str | None:
    """Return the special token that a step of the post-processor puts before the text."""
    if step.get("type") == "TemplateProcessing" and step.get("single"):
        return step["single"][0].get("SpecialToken", {}).get("id")
    return step["cls"][0] if step.get("type") in ("RobertaProcessing", "BertProcessing") else None
