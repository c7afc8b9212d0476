"""The tokenizer that `transformers` loads. Needs the extra `transformers`.

A folder has this module together with the tokenizer of the package that it uses, as one file.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer  # pyright: ignore[reportMissingImports]

from bitgolf.tokens.loading import tokenizer_from_bytes

TOKENIZER_FILE = "tokenizer.model"


class BitgolfTokenizer(PreTrainedTokenizer):
    """The ids of a tokenizer of Bitgolf, after the token that begins a document.

    Any text is restored; special tokens in a text are read as text. vocab_file: the serialized tokenizer.
    """

    vocab_files_names = {"vocab_file": TOKENIZER_FILE}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.inner = tokenizer_from_bytes(Path(vocab_file).read_bytes())
        taken = dict[str, int]()
        for token, name in enumerate(self.inner.piece_strings):
            taken[name if name not in taken else f"{name}#{token}"] = token
        self.ids, self.names = taken, list(taken)
        own = {"split_special_tokens": True, "clean_up_tokenization_spaces": False, "padding_side": "left"}
        if self.inner.bos >= 0:
            own |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), self.names[self.inner.bos])
        super().__init__(**{**own, **kwargs})

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.names)

    def get_vocab(self) -> dict[str, int]:
        """Return name -> id of all tokens."""
        return {**self.ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self.names[token] for token in self.inner.encode(text.encode("utf-8", "surrogateescape")).tolist()]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.ids.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.names[index]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.inner.decode_lenient([self.ids[token] for token in tokens]).decode(errors="replace")

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the ids of one or two documents, each after the token that begins it."""
        first = [self.inner.bos] if self.inner.bos >= 0 else []
        return [*first, *token_ids_0, *([*first, *token_ids_1] if token_ids_1 is not None else [])]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the file of the tokenizer to a folder; returns its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}{TOKENIZER_FILE}"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)
