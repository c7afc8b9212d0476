"""Shards that are written little by little, and continued after a crash."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.data.shard_writer import ShardWriter, WriterState
from bitgolf.data.shards import TokenStream, find_shards
from helpers.examples import examples

arrays = st.lists(st.integers(0, 9), max_size=12)


@settings(deadline=None, max_examples=examples(100))
@given(arrays, arrays, arrays, st.integers(1, 7))
def test_what_follows_a_checkpoint_is_undone(sizes: list[int], lost: list[int], more: list[int], shard: int) -> None:
    """`lost` is written after the checkpoint, by a process that is then killed."""
    every = np.arange(sum(sizes) + sum(more) + 1, dtype=np.uint16)
    with tempfile.TemporaryDirectory() as name:
        folder, state = Path(name), WriterState()
        (folder / "work").mkdir()
        writer = ShardWriter(folder, folder / "work", "train", shard, state)
        done = append(writer, every, 0, sizes)
        writer.sync()
        checkpoint = copy.deepcopy(state)
        append(writer, every[::-1], 0, lost)
        writer.close()  # as far as the file system saw it
        writer = ShardWriter(folder, folder / "work", "train", shard, checkpoint)
        done = append(writer, every, done, more)
        writer.append(every[done:])
        entries = writer.finish()
        paths = find_shards(folder, "train")
        stream = TokenStream(paths)
        assert np.array_equal(stream.window(0, len(stream)), every)
        assert [path.name for path in paths] == [entry.name for entry in entries]
        assert [entry.tokens for entry in entries] == [len(shard) for shard in stream.shards]
        assert all(entry.tokens == shard for entry in entries[:-1])
        assert not list((folder / "work").iterdir())


def append(writer: ShardWriter, every: np.ndarray, start: int, sizes: list[int]) -> int:
    """Append arrays of these sizes; return the position after them."""
    for size in sizes:
        writer.append(every[start : start + size])
        start += size
    return start
