"""Fixtures of the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import damage
from helpers.forked import forked_workers
from helpers.report_charts import charts, no_charts

__all__ = ["charts", "forked_workers", "no_charts"]


@pytest.fixture(scope="session")
def _toy() -> Iterator[None]:
    yield
    damage.remove_toy()


@pytest.fixture
def toy_run(_toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run at toy size. Scores are computed in this process, which is faster."""
    monkeypatch.setattr("bitgolf.pipeline.scoring.score_in_workers", damage.score_in_this_process)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return damage.finished_copy(tmp_path)
