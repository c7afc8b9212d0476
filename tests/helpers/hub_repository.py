"""Small repositories in the layout of the published ones, and a client with the library's addresses on the loopback hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from bitgolf.data.hub.client import HubClient
from bitgolf.data.hub.fetch import FetchedShards, FetchSettings, fetch_published
from bitgolf.data.hub.published import ShardSource
from bitgolf.data.shards import HEADER_BYTES, MAGIC, VERSION
from bitgolf.report.log import RunLog
from bitgolf.runtime.folder_lock import LOCK_FILE
from helpers.hub_server import HubServer

REPOSITORY = "someone/golf"
SP1024, SP8192 = "datasets/datasets/fineweb10B_sp1024", "datasets/datasets/fineweb10B_sp8192"
CASEOPS = "datasets/datasets/fineweb10B_sp8192_lossless_caps_caseops_v1_reserved"
TOKENIZERS = "datasets/tokenizers"
SOURCE = ShardSource(REPOSITORY, variant="sp1024")
TOKENS = 40_000


def shard(seed: int, tokens: int = TOKENS) -> bytes:
    """The bytes of a shard of random tokens."""
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes() + np.random.default_rng(seed).integers(0, 1024, tokens).astype("<u2").tobytes()


def repository_files(version: int = 0) -> dict[str, bytes]:
    """A repository with two variants and the tokenizers of three; other versions have other tokens."""
    files = {
        "README.md": b"shards\n",
        "datasets/manifest.json": b"{}\n",
        f"{TOKENIZERS}/fineweb_1024_bpe.model": b"small model " * 3,  # a Git blob
        f"{TOKENIZERS}/fineweb_1024_bpe.vocab": b"vocabulary",
        f"{TOKENIZERS}/fineweb_8192_bpe.model": b"large model " * 300,
        f"{TOKENIZERS}/fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model": b"caseops model " * 300,
    }
    for i in range(4):
        files[f"{SP1024}/fineweb_train_{i:06d}.bin"] = shard(100 * version + i)
    files[f"{SP1024}/fineweb_val_000000.bin"] = shard(100 * version + 50, 20_000)
    for i in range(2):
        files[f"{CASEOPS}/fineweb_train_{i:06d}.bin"] = shard(100 * version + 60 + i)
        files[f"{CASEOPS}/fineweb_val_{i:06d}.bin"] = shard(100 * version + 70 + i, 9_000)
        files[f"{CASEOPS}/fineweb_val_bytes_{i:06d}.bin"] = shard(100 * version + 80 + i, 9_000)
    return files


class HasAddress(Protocol):
    """A hub of a test."""

    @property
    def url(self) -> str: ...


@contextmanager
def library_on(hub: HasAddress, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Let `huggingface_hub` talk to the hub of the test alone: no other address, no proxy, no token of the user."""
    import huggingface_hub
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_PROXY", "*")
        huggingface_hub.close_session()
        yield patch
    huggingface_hub.close_session()


class RecordedLog(RunLog):
    """Keeps the messages instead of printing them."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.messages: list[str] = []

    def info(self, message: str, *, record: bool = True) -> None:
        self.messages.append(message)


class Fetcher:
    """Fetches from the hub of the test without waiting. waits: the seconds that would have been waited."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder, self.waits, self.log = hub, folder, list[float](), RecordedLog()

    def __call__(self, train_shards: int | None = 1, source: ShardSource = SOURCE, **settings: object) -> FetchedShards:
        wanted = FetchSettings(train_shards=train_shards, out=self.folder, **settings)  # type: ignore[arg-type]
        return fetch_published(HubClient(self.log, self.waits.append), source, wanted, self.log)

    def names(self) -> list[str]:
        """The names of all files in the folder, without the lock."""
        return sorted(path.name for path in self.folder.glob("*") if path.name != LOCK_FILE)
