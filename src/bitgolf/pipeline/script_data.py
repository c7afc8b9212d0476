"""The data of a script: shards that stay where they are, and their tokenizer, as a prepared data folder."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.files import write_bytes, write_json
from bitgolf.score.text import TokenizedText, text_of_shards
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer

DOCUMENTS = 1_000
"""Documents whose bytes are counted at a time."""


def link_shards(shards: Path, tokenizer_file: Path, target: Path) -> None:
    """Write what a script states of its data, and the tokenizer, to `target`, for training on shards in another folder.

    It is not the manifest of prepared data: counts and digests are not stated, as nothing of a script reads them.
    """
    tokenizer = load_tokenizer(tokenizer_file)
    write_bytes(target / "tokenizer.model", tokenizer.serialized)
    stated = {"vocab": tokenizer.vocab, "bos": tokenizer.bos, "shards_folder": str(shards.resolve())}
    write_json(target / "manifest.json", stated)


def validation_text(data: Path) -> TokenizedText:
    """Return the text of the validation shards of a folder that `link_shards` wrote, with its length in bytes."""
    tokenizer = tokenizer_from_bytes((data / "tokenizer.model").read_bytes())
    place = json.loads((data / "manifest.json").read_bytes())["shards_folder"]
    stream = TokenStream(find_shards(Path(place), "val"))
    return text_of_shards(stream, count_bytes(stream, tokenizer), tokenizer.bos)


def count_bytes(stream: TokenStream, tokenizer: Tokenizer) -> int:
    """Return the number of bytes that the tokens of a stream decode to."""
    tokens = stream.window(0, len(stream))
    starts = np.flatnonzero(tokens == tokenizer.bos)
    bounds = [0, *starts[DOCUMENTS::DOCUMENTS].tolist(), len(tokens)]
    return sum(int(tokenizer.count_bytes(tokens[a:b]).sum()) for a, b in pairwise(bounds))
