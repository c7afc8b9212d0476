"""The page of a run: complete, deterministic, safe for any text, small, and whole where pieces are missing."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bitgolf.artifact.ledger import LedgerEntry
from bitgolf.pipeline.calibration import CalibrationSummary, TrainingClock
from bitgolf.pipeline.html_report.contents import TrainingCurve
from bitgolf.pipeline.html_report.page import render_report
from bitgolf.pipeline.state import RunInputs
from bitgolf.pipeline.training_result import PartUsageRow
from bitgolf.report.events import ValidationRow
from helpers.browser import check_page, open_browser
from helpers.command_line import run_command
from helpers.report_contents import losses, method, report_contents, run_result, split, tensors, training

pytestmark = pytest.mark.usefixtures("charts")
HEADINGS = [
    "Result",
    "Training",
    "Where the bits go",
    "Quantization",
    "Proof by compression",
    "Scoring methods",
    "Data",
    "Recipe",
    "Environment",
    "Warnings",
    "Parts in use",
]
RESULT_CHARTS = [
    "Bits per byte by stage, with bytes",
    "Bytes of the artifact by section",
    "General compressors (bits per byte)",
]
LOSS_CHART = "Training loss by step (nats per token)"
STEP_CHARTS = ["Learning rate by step (factor)", "Time of a step (ms)"]
BIT_CHARTS = [
    "Bits by kind of token (bits per byte)",
    "Bits by frequency of the word (bits per byte)",
    "Bits per byte by position in the document",
    "Bits per byte by length of the document",
]
TENSOR_CHARTS = ["Quantization error by tensor (rms, units of the weights)", "Entropy by tensor (bits per weight)"]
CHARTS = [*RESULT_CHARTS, LOSS_CHART, *STEP_CHARTS, "Time by stage (s)", *BIT_CHARTS, *TENSOR_CHARTS]
VOID = {"meta", "br", "hr", "img", "use", "path", "link", "rect"}
FONT_SIZE = "t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.clientWidth / t.ownerSVGElement.viewBox.baseVal.width"
"""JavaScript function: the size in px at which a text of a chart is shown."""
HOSTILE = (
    "</title><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>\"'&\x00\x1b[31m\udc80\u202e名"
)


class PageReader(HTMLParser):
    """Tags, headings and text of a page; every tag that needs one has its end."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data)

    @property
    def text(self) -> str:
        return "\n".join(data for tag, found in self.words.items() if tag != "style" for data in found)


def headings(**changed: Any) -> tuple[list[str], list[str]]:
    """Titles of the sections and of the charts of a page."""
    page = PageReader(render_report(report_contents(**changed)))
    return [title for title in page.words["h2"] if title in HEADINGS], page.words.get("h3", [])


# ---- a complete page -----------------------------------------------------------------------------------------------


def test_a_page_has_all_sections_in_order_and_the_numbers() -> None:
    assert headings() == (HEADINGS, CHARTS)
    text = PageReader(render_report(report_contents())).text
    shown = [
        "quickstart", "23b1d3177684890e", "seed 0", "2026-11-28 01:50 UTC", "A CPU @ 2.60GHz", "1.7591", "+0.0321", "330,700", "343,045",
        "of 1,000,000 bytes: fits", "59.9 s", "matrix.codes", "zstd -19", "16,012 bytes", "restored byte for byte", "fedcba9876543210",
        "corpus/*.txt", "model.dim", "2.13.0", "Muon on matrix", "more text may improve the score",
    ]  # fmt: skip
    assert [word for word in shown if word not in text] == []


def test_bytes_of_the_table_sum_to_the_file() -> None:
    contents = report_contents()
    page = render_report(contents)
    assert sum(entry.bytes for entry in contents.ledger) == contents.result.bytes.self_contained
    assert all(f"{entry.bytes:,}" in page for entry in contents.ledger)


def test_equal_contents_give_equal_bytes() -> None:
    assert render_report(report_contents()) == render_report(report_contents())


def test_every_chart_has_a_description_and_numbers() -> None:
    page = PageReader(render_report(report_contents()))
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == len(CHARTS) and all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in charts)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0, "ids are unique on the page"


def test_nothing_is_run_or_fetched() -> None:
    page = PageReader(render_report(report_contents()))
    assert {"script", "link", "img", "iframe", "object", "form"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attributes in page.tags:
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "src", "xlink:href")), tag
        assert not any(name.startswith("on") for name in attributes)
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    style = "".join(page.words["style"])
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme:dark" in style


def test_texts_of_others_are_escaped() -> None:
    entries = [LedgerEntry(HOSTILE, 100, 0, None, HOSTILE)]
    trip = run_result().roundtrip
    assert trip
    hostile = run_result(
        recipe=HOSTILE, hash=HOSTILE, device=HOSTILE, seconds={HOSTILE: 1.0}, bpb={HOSTILE: 1.0, "packed": 2.0},
        methods=[method(HOSTILE, 1.5, order=HOSTILE)], part_usage=[PartUsageRow(HOSTILE, 1, 1, 1)],
        roundtrip=msgspec.structs.replace(trip, method=HOSTILE, general_compressors_bpb={HOSTILE: 1.0}),
        calibration=CalibrationSummary(source=HOSTILE),
    )  # fmt: skip
    page = render_report(
        report_contents(
            result=hostile, ledger=entries, settings=[(HOSTILE, HOSTILE)], environment={HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}},
            warnings=[HOSTILE], read=[HOSTILE], finished=HOSTILE, inputs=RunInputs(seed=0, text=(HOSTILE,), tokenizer=HOSTILE),
        )
    )  # fmt: skip
    reader = PageReader(page)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in reader.tags) and "alert(1)" in reader.text
    page.encode()
    assert not set("\x00\x1b\u202e") & set(page), "control characters are written as escapes"


# ---- pieces that are missing ---------------------------------------------------------------------------------------


def without(*titles: str) -> tuple[list[str], list[str]]:
    return [t for t in HEADINGS if t not in titles], [t for t in CHARTS if t not in titles]


def test_a_run_without_a_proof() -> None:
    wanted = without("Proof by compression", RESULT_CHARTS[2])
    assert headings(result=run_result(roundtrip=None)) == wanted


def test_a_run_without_logged_steps() -> None:
    assert headings(training=TrainingCurve([])) == without(LOSS_CHART, *STEP_CHARTS)


def test_validation_during_training_is_in_the_table_of_the_loss() -> None:
    validation = [ValidationRow(100 * i, 12.0 * i, 1.9 - i / 100, 2.9, 20_000, "trained") for i in range(1, 400)]
    page = render_report(report_contents(result=run_result(validation=validation)))
    assert "held-out bits per byte" in page and "1.8900" in page and page.count("<td class=number>20,000</td>") <= 100
    assert "held-out bits per byte" not in render_report(report_contents())


def test_a_run_without_tensor_reports() -> None:
    assert headings(tensors=[]) == without("Quantization", *TENSOR_CHARTS)


def test_a_run_whose_scores_have_no_breakdown() -> None:
    """As those of earlier versions."""
    methods = [method("contiguous", 1.7988, breakdown=None)]
    assert headings(result=run_result(methods=methods)) == without("Where the bits go", *BIT_CHARTS)


def test_a_run_without_calibration_and_without_a_limit() -> None:
    clock = TrainingClock(5.0, 0.0, 5.0, 0.0)
    result = run_result(calibration=CalibrationSummary(source="none"), training_clock=clock)
    text = PageReader(render_report(report_contents(result=result))).text
    assert "no limit" in text and "5.0 s, without a limit" in text and "0 matrices" not in text


def test_a_run_without_scores() -> None:
    result = run_result(methods=[], bpb=dict.fromkeys(run_result().bpb), roundtrip=None)
    missing = ("Scoring methods", "Proof by compression", RESULT_CHARTS[0], RESULT_CHARTS[2], "Where the bits go")
    assert headings(result=result) == without(*missing, *BIT_CHARTS)


def test_a_run_without_warnings_settings_parts_and_sections() -> None:
    wanted = without("Warnings", "Parts in use", RESULT_CHARTS[1])
    changed: dict[str, Any] = {"warnings": [], "settings": [], "ledger": [], "read": []}
    assert headings(result=run_result(part_usage=[]), **changed) == wanted


def test_a_run_says_where_its_text_is_from() -> None:
    for inputs, source in (
        (RunInputs(seed=0, text=("a.txt", "b/*")), "a.txt, b/*"),
        (RunInputs(seed=0, shards="/data/shards", tokenizer="/data/t.model"), "shards in /data/shards"),
        (RunInputs(seed=0), "PythonStandardLibrary, of the recipe"),
    ):
        page = PageReader(render_report(report_contents(inputs=inputs, settings=[("text", "PythonStandardLibrary")])))
        assert source in page.words["td"]


def test_a_run_without_a_machine_or_a_date() -> None:
    text = PageReader(render_report(report_contents(environment={}, finished=""))).text
    assert "recipe 23b1d3177684890e · seed 0 · CPU, 2 threads, float32" in text


def test_over_a_limit_is_said() -> None:
    result = run_result(fits=False, training_clock=TrainingClock(61.0, 3.0, 64.0, 60.0))
    text = PageReader(render_report(report_contents(result=result))).text
    assert "does not fit" in text and "over the limit" in text


def test_a_score_that_is_repeated_is_shown_once() -> None:
    bpb = {"trained": 1.8, "averaged": 1.8, "packed": 1.9, "sliding": 1.9, "adapted": None}
    page = render_report(report_contents(result=run_result(bpb=bpb)))
    label = re.search(r"Bits per byte by stage: ([^\"]*)", page)
    assert label and label[1] == "trained 1.8000, averaged 1.8000, packed 1.9000"


# ---- sizes of trainings --------------------------------------------------------------------------------------------


def test_a_run_of_one_step() -> None:
    assert headings(training=TrainingCurve([(1, 5.0)])) == without(*STEP_CHARTS)
    assert headings(training=training(1)) == (HEADINGS, CHARTS)


def test_a_long_run_gives_a_small_page() -> None:
    settings = [(f"model.part.{i}", "x" * 10_000) for i in range(500)]
    page = render_report(
        report_contents(
            training=training(100_000)._replace(
                phases=[(i * 1_000, i / 100) for i in range(100)], checkpoints=range(0, 100_000, 50)
            ),
            tensors=tensors() * 100,
            settings=settings, warnings=[f"warning {i}" for i in range(10_000)],
            data=msgspec.structs.replace(report_contents().data, train=split("train", 5_000)),
        )
    )  # fmt: skip
    assert len(page.encode()) < 1_000_000
    text = PageReader(page).text
    assert "The first 20 of 5,001 shards" in text and "9,900 more are in log.jsonl" in text
    assert "warning 99" in text and "warning 100" not in text
    assert "train_000019.bin" in text and "train_000020.bin" not in text


def test_losses_that_are_not_finite_are_counted() -> None:
    some = [(step, math.nan if step % 3 == 0 else loss) for step, loss in losses(9)]
    assert "3 of 9 logged losses are not finite" in render_report(report_contents(training=TrainingCurve(some)))
    none = [(step, math.nan) for step, _ in some]
    assert "9 of 9 logged losses are not finite" in render_report(report_contents(training=TrainingCurve(none)))


def test_scores_that_are_not_finite_are_not_drawn() -> None:
    bpb = {"trained": 1.8, "averaged": math.nan, "packed": math.inf}
    result = run_result(bpb=bpb, methods=[method("contiguous", math.inf)])
    assert headings(result=result) == without(RESULT_CHARTS[2], "Where the bits go", *BIT_CHARTS)


# ---- of a run ------------------------------------------------------------------------------------------------------


def test_only_the_stage_report_loads_matplotlib_and_says_nothing(tmp_path: Path) -> None:
    """Also where its cache cannot be written, of which matplotlib warns."""
    (tmp_path / "file").write_text("")
    program = (
        "import sys, bitgolf.cli, bitgolf.pipeline.execute; assert 'matplotlib' not in sys.modules; "
        "from bitgolf.pipeline.reporting import load_renderer; load_renderer(); assert 'matplotlib' in sys.modules"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_page_of_a_finished_run(toy_run: Path) -> None:
    assert run_command("run", str(toy_run), "--from", "report").returncode == 0  # this time with charts
    page, result = (toy_run / "report.html").read_text(), json.loads((toy_run / "score.json").read_text())
    text = PageReader(page).text
    assert f"{result['bytes']['self_contained']:,}" in text and f"{result['methods'][-1]['bpb']:.4f}" in text
    assert result["hash"] in text and re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", text)
    assert all(title in text for title in CHARTS if title not in (*STEP_CHARTS[1:], RESULT_CHARTS[2]))
    for one in result["methods"]:
        for table in one["breakdown"].values():
            assert sum(row["targets"] for row in table) == one["targets"]
            assert sum(row["bytes"] for row in table) == one["bytes"]
            assert sum(row["bits"] for row in table) == pytest.approx(one["bits"], abs=2e-6 * one["targets"])
    environment = json.loads((toy_run / "environment.json").read_text())
    assert environment["packages"]["matplotlib"] in text and "All " in text


# ---- in a browser --------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_requests_and_overflow(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    inputs = RunInputs(seed=0, text=("/a/folder/" + "long" * 60 + ".txt",))
    settings = [("model." + "deep." * 20 + str(i), "value" * 40) for i in range(30)]
    file.write_text(render_report(report_contents(inputs=inputs, settings=settings)))
    with open_browser() as browser:
        for width, dark in ((390, False), (390, True), (1280, False)):
            check_page(browser, file, width, dark=dark)
            background = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background))) < 380) is dark
            assert browser.value(f"Math.min(...[...document.querySelectorAll('svg text')].map({FONT_SIZE}))") >= 10
            columns = "new Set([...document.querySelectorAll('figure')].map(f => f.getBoundingClientRect().left)).size"
            assert browser.value(columns) == (1 if width < 600 else 3)
