"""The text that a score is of, as one stream of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitgolf.data.prepare import load_manifest
from bitgolf.data.shards import Stream, find_shards
from bitgolf.score.referee import with_last_end


def validation(data: Path) -> tuple[np.ndarray, int]:
    """The validation shards of a folder as a stream closed by a last BOS, and the bytes of their text."""
    manifest = load_manifest(data)
    stream = Stream(find_shards(data, "val"))
    return with_last_end(stream.window(0, len(stream)), manifest.bos), manifest.val.encoded_bytes
