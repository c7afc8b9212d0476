"""Fixtures: one torch thread, a small data folder, and a fake clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitgolf.training import loop
from bitgolf.training.checkpoint_writer import CheckpointWriter
from helpers.toy_training import FakeTime, make_data


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """A fake clock for the loop, which only tests advance; writing a checkpoint takes no time."""
    fake = FakeTime()
    monkeypatch.setattr(loop, "time", fake)
    monkeypatch.setattr(CheckpointWriter, "busy", False)
    return fake
