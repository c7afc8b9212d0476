"""The page of a sweep, `compare SWEEP --page FILE`: in a browser it is walked by keyboard, and it fits a phone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitgolf.sweeps.summary import SweepSummary
from helpers.browser import check_page, open_browser
from helpers.command_line import run_command

VARIANTS = {"base", "strong-decay", "3-bits"}


@pytest.fixture(scope="module")
def page(swept: tuple[Path, SweepSummary], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with a run that a round of a search has left unfinished."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(swept[0], folder / "sweep", copy_function=shutil.copy2)
    left = next((folder / "sweep").glob("3-bits-*-s2"))
    (left / "stages.json").write_text("{}")
    (left / "stopped.json").write_text(json.dumps({"when": "after step 2", "reason": "0.25 of the training is done"}))
    done = run_command("compare", str(folder / "sweep"), "--page", str(folder / "page.html"))
    assert done.returncode == 0, done.stderr
    return folder / "page.html"


def test_the_page_has_the_variants_and_the_name_of_the_sweep(page: Path) -> None:
    text = page.read_text()
    assert "<h1>Sweep toy</h1>" in text and all(name in text for name in VARIANTS)
    assert "quantize.2.use.bits" in text and "9 runs in 3 groups" in text


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_shows_it_on_a_phone_and_on_a_screen(page: Path) -> None:
    with open_browser() as browser:
        for width in (390, 1280):
            for dark in (False, True):
                check_page(browser, page, width, dark=dark)
        assert browser.value("document.title") == "bitgolf: Sweep toy"
