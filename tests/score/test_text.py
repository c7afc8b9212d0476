"""Tests of texts from shards that begin within a document."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.score.text import text_of_shards


def test_every_token_of_shards_is_a_target(tmp_path: Path) -> None:
    """Also the first one if it is no BOS, since its bytes count; and the end of the last document."""
    for ids in ([1, 5, 1, 6], [5, 6, 1, 7]):
        write_shard(tmp_path / "val_000000.bin", np.array(ids))
        text = text_of_shards(TokenStream([tmp_path / "val_000000.bin"]), 10, bos=1)
        assert text.tokens[1:].tolist() == [*ids[ids[0] == 1 :], 1] and text.tokens[0] == 1
        assert text.bytes == 10 and [stop - start for start, stop in text.documents()] == (
            [2, 2] if ids[0] == 1 else [3, 2]
        )
