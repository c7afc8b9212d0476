"""Pages of runs without charts, and with them where a test looks at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitgolf.pipeline.html_report.charts import run_charts

RUN_CHARTS = "bitgolf.pipeline.html_report.page.run_charts"


@pytest.fixture(scope="module", autouse=True)
def no_charts() -> Iterator[None]:
    """Runs write their page without charts, which take half a second. For folders with many runs: import it in conftest.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RUN_CHARTS, lambda contents: [])
        yield


@pytest.fixture
def charts(no_charts: None) -> Iterator[None]:
    """Runs write their page with charts, as for a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RUN_CHARTS, run_charts)
        yield
