"""Fixtures of the tests of folders for transformers: a finished run at toy size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import damage
from helpers.report_charts import no_charts

__all__ = ["no_charts"]


@pytest.fixture
def toy_run(tmp_path: Path) -> Iterator[Path]:
    """A copy of a finished run at toy size."""
    yield damage.finished_copy(tmp_path)
    damage.remove_toy()
