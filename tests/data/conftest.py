"""Fixtures: a small tokenizer, trained once per session, shards of consecutive numbers, and a hub on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.text.documents import python_library
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.hub_files import FILES
from helpers.hub_repository import REPOSITORY, Fetcher, library_on
from helpers.hub_server import HubServer, hub_server


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    return tokenizer_from_bytes(
        SentencePieceBPE(vocab=400).train(document.data for document in islice(python_library(), 6))
    )


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenStream]:
    """`counting(7, 5)`: the tokens 0 ... 11 in shards of 7 and 5."""

    def make(*lengths: int) -> TokenStream:
        folder: Path = tmp_path_factory.mktemp("counting")
        parts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
        for i, ids in enumerate(parts):
            write_shard(folder / f"train_{i:06d}.bin", ids)
        return TokenStream(sorted(folder.iterdir()))

    return make


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as hub, library_on(hub, tmp_path):
        hub.publish(REPOSITORY, FILES)
        yield hub


@pytest.fixture
def fetch(hub: HubServer, tmp_path: Path) -> Fetcher:
    return Fetcher(hub, tmp_path / "out")
