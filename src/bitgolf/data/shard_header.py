"""The header of a shard, and what is wrong with a file whose header is not valid.

A header has 256 little-endian int32: magic 20240520, version 1, number of tokens, zeros. The other formats that are
recognized here are those of llm.c (dev/data/data_common.py and the loaders of its C files), and pointers of Git LFS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitgolf.errors import BitgolfError, CorruptFileError

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 1024
_OTHER_MAGIC = {
    20240801: "a token file of llm.c for Llama 3, with 32-bit tokens",
    20240522: "an evaluation file of llm.c",
    20240326: "a model of llm.c",
    20240328: "a tokenizer of llm.c",
}
_LFS_POINTER = b"version https://git-lfs"
_AGAIN = "download or create it again"


def read_token_count(path: Path) -> int:
    """Return the number of tokens of a shard, at least 1, whose header and size agree.

    Raises `BitgolfError` if the file cannot be read, and `CorruptFileError` if its header or its size is wrong.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise BitgolfError(f"the shard cannot be read ({error.strerror})", where=str(path)) from error
    if problem := _magic_problem(header) or _size_problem(header, size):
        message, hint = problem
        raise CorruptFileError(message, where=str(path), hint=hint)
    return int(np.frombuffer(header, "<i4", 3)[2])


def _magic_problem(header: bytes) -> tuple[str, str] | None:
    """(message, hint) if the first bytes are not those of a shard; None if they are."""
    if header.startswith(_LFS_POINTER):
        return "not a shard, but the pointer that Git LFS stores in its place", "`git lfs pull` downloads the file"
    if len(header) < HEADER_BYTES:
        size = f"it has {len(header)} bytes" if header else "the file is empty"
        return f"not a shard: {size}, but a header has {HEADER_BYTES}", _AGAIN
    magic, version, _ = np.frombuffer(header, "<i4", 3).tolist()
    if magic == MAGIC and version == VERSION:
        return None
    if np.frombuffer(header, ">i4", 1)[0] == MAGIC:
        hint = "write it again with a little-endian header and little-endian tokens"
        return "the shard is big-endian; only little-endian shards are supported", hint
    if magic == MAGIC:
        return f"the shard has version {version}; only version {VERSION} is supported", "write it again as version 1"
    if magic in _OTHER_MAGIC:
        hint = f"write its tokens as a shard: magic {MAGIC}, version {VERSION}, 16-bit tokens"
        return f"not a shard, but {_OTHER_MAGIC[magic]} (it starts with {magic} instead of {MAGIC})", hint
    hint = "a file of tokens without a header needs one: `bitgolf data make` writes shards from text"
    return f"not a shard: it starts with {magic} instead of {MAGIC}", hint


def _size_problem(header: bytes, size: int) -> tuple[str, str] | None:
    """(message, hint) if the stated number of tokens is not that of the file; None if it is."""
    count = int(np.frombuffer(header, "<i4", 3)[2])
    expected, hint = HEADER_BYTES + 2 * count, _AGAIN
    if count < 1:
        return f"the shard's header states {count:,} tokens, but at least 1 is needed", hint
    if size == expected:
        return None
    need = f"{size:,} bytes, but {count:,} tokens need {expected:,}"
    if size == HEADER_BYTES + 4 * count:
        return f"the shard has 32-bit tokens ({need} with 16 bits each)", "write its tokens with 16 bits each"
    if size == HEADER_BYTES:
        return f"the shard ends after its header: {need}", hint
    return f"the shard is too {'short' if size < expected else 'long'}: {need}", hint
