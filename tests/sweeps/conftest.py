"""Fixtures of the tests of sweeps: scores are computed in the process of the tests; pages have no charts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgolf.sweeps.summary import SweepSummary
from helpers import damage
from helpers.report_charts import no_charts
from helpers.toy_sweeps import run_toy_sweep

__all__ = ["no_charts"]


@pytest.fixture(scope="package", autouse=True)
def fast_scoring() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitgolf.pipeline.scoring.score_in_workers", damage.score_in_this_process)
        patch.setattr("torch.cuda.is_available", lambda: False)
        yield
    damage.remove_toy()


@pytest.fixture(scope="package")
def swept(fast_scoring: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepSummary]:
    """A finished sweep of three variants with three seeds: (its folder, its result)."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    return folder, run_toy_sweep(folder)
