"""The page of a comparison: texts and data are never mixed in a chart, names are escaped, and missing pieces left out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from bitgolf.recipes.differences import SettingDifference
from bitgolf.report.events import ValidationRow
from bitgolf.significance.mean_tests import welch
from bitgolf.store.comparison import Comparison, RunGroup, UsageDifference, compare_groups, group_letter, summary_of
from bitgolf.store.comparison_page.charts import scored_by_text
from bitgolf.store.comparison_page.loss_curves import loss_curves
from bitgolf.store.comparison_page.page import comparison_page
from bitgolf.store.entry import RunEntry
from helpers.browser import check_page, open_browser
from helpers.toy_run import finish

HOSTILE = "</title><script>alert(1)</script>\x00\u202e名"


def entry(
    folder: str, bpb: float | None = 1.2, *, text: str = "text", size: int | None = 1_000, seconds: float | None = 60.0
) -> RunEntry:
    return RunEntry(
        folder=folder, kind="run", recipe="a recipe", hash="0123", seed=0, state="report", bpb={} if bpb is None else {"packed": bpb}, bytes=size,
        params=10, tokens=20, steps=30, seconds=70.0, training_seconds=seconds, text=text, changed=0.0, code=None,
    )  # fmt: skip


def group(name: str, *runs: RunEntry, test: bool = False) -> RunGroup:
    scores = [run.best_bpb for run in runs if run.best_bpb is not None]
    found = welch([1.1, 1.11], [1.2, 1.22]) if test else None
    return RunGroup(name, list(runs), {"bytes": summary_of([1_000.0])}, found, summary_of(scores) if scores else None)


def comparison(groups: Sequence[RunGroup]) -> Comparison:
    settings = [[SettingDifference("train.steps", 8, 9)] for _ in groups[1:]]
    return Comparison(
        list(groups), settings, [UsageDifference("Linear", ["1", *["-"] * (len(groups) - 1)])], ["a note"]
    )


def headings(page: str, level: int) -> list[str]:
    return re.findall(rf"<h{level}>([^<]*)</h{level}>", page)


def test_a_page_has_groups_charts_and_differences() -> None:
    groups = [
        group("a*", entry("a0", 1.20), entry("a1", 1.22)),
        group("b*", entry("b0", 1.10, size=2_000), entry("b1", 1.11, size=900), test=True),
    ]
    page = comparison_page(comparison(groups))
    assert headings(page, 2) == ["Groups", "Scores", "Settings that differ", "What parts touched", "Measures", "Runs"]
    assert headings(page, 3) == [
        "Score by group (bits per byte)",
        "Score against bytes",
        "Score against training time (s)",
    ]
    for word in ("A a*", "B b*", "-0.10500", "train.steps", "a note", "2 of 4 runs that no other run beats", "Linear"):
        assert word in page, word
    assert page == comparison_page(comparison(groups))


def test_scores_on_other_text_are_in_other_charts() -> None:
    groups = [
        group("a", entry("a0"), entry("a1")),
        group("b", entry("b0", text="other"), entry("b1", text=""), entry("b2", None)),
    ]
    found = {text: [one.run.folder for one in scored] for text, scored in scored_by_text(groups).items()}
    assert found == {"text": ["a0", "a1"], "other": ["b0"]}
    page = comparison_page(comparison(groups))
    titles = [title for title in headings(page, 2) if title.startswith("Scores")]
    assert titles == ["Scores, validation text 1 of 2: text", "Scores, validation text 2 of 2: other"]
    assert headings(page, 3).count("Score by group (bits per byte)") == 2
    assert headings(page, 3).count("Score against bytes") == 1, "one run has no trade-off"


def test_runs_without_measures_are_not_drawn() -> None:
    runs = [entry(name, size=None, seconds=None) for name in ("a0", "a1")]
    assert headings(comparison_page(comparison([group("a", *runs)])), 3) == ["Score by group (bits per byte)"]
    assert headings(comparison_page(comparison([group("a", entry("a0", None))])), 3) == []


def test_names_are_escaped() -> None:
    groups = [group(HOSTILE, entry(HOSTILE, text=HOSTILE)), group(HOSTILE + "2", entry("b", text="b"))]
    page = comparison_page(comparison(groups), HOSTILE)
    assert "<script" not in page and not set("\x00\u202e") & set(page)
    page.encode()


def test_many_groups_of_many_runs() -> None:
    """As of a sweep: differences are folded, and the page stays small."""
    groups = [
        group(f"variant {i}", *(entry(f"{i}/{s}", 1.0 + (7 * i + s) % 11 / 10, size=100 * i + s) for s in range(9)))
        for i in range(30)
    ]
    page = comparison_page(comparison(groups), "Sweep of steps")
    assert "AD against A: 1 settings" in page and "<h1>Sweep of steps</h1>" in page
    assert len(page.encode()) < 600_000
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 0


def test_letters_of_groups() -> None:
    letters = [group_letter(i) for i in range(26 * 27 + 1)]
    assert letters[:2] == ["A", "B"] and letters[25:28] == ["Z", "AA", "AB"] and letters[-1] == "AAA"
    assert len(set(letters)) == len(letters)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three copies of a run; the third has other data."""
    folder = tmp_path_factory.mktemp("runs")
    first = finish(folder)
    copies = [Path(shutil.copytree(first, folder / name)) for name in ("x", "y", "z")]
    manifest = copies[2] / "data" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tokenizer": "another"}))
    return copies


def test_losses_on_other_data_are_in_other_charts(runs: list[Path]) -> None:
    found = compare_groups({"one": runs[:1], "others": runs[1:]})
    curves = list(loss_curves(found.groups).values())
    names = [[(Path(curve.folder).name, curve.group) for curve in same] for same in curves]
    assert names == [[("x", 0), ("y", 1)], [("z", 1)]]
    assert all(len(curve.rows) == 8 for same in curves for curve in same)
    page = comparison_page(found)
    titles = [title for title in headings(page, 2) if title.startswith("Training")]
    assert titles == ["Training, data 1 of 2", "Training, data 2 of 2"]
    assert headings(page, 3).count("Training loss by time (nats per token)") == 2


def test_validation_during_training_is_in_one_chart_for_equal_texts(runs: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(runs[0], tmp_path / name)) for name in ("u", "v", "w")]
    for copy, targets in zip(copies, (900, 900, 450), strict=True):
        rows = [ValidationRow(step, 0.1 * step, 3.0 - step / 10, 5.0, targets, "trained") for step in (4, 8)]
        with (copy / "log.jsonl").open("a") as log:
            log.writelines(json.dumps({"event": "validation", **msgspec.to_builtins(row)}) + "\n" for row in rows)
    page = comparison_page(compare_groups({"u": copies[:1], "others": copies[1:]}))
    titles = [title for title in headings(page, 3) if title.startswith("Validation")]
    assert titles == [f"Validation on {n} tokens during training (bits per byte)" for n in (450, 900)]
    assert page.count("<td class=number>2.2000</td>") == 3


def test_a_run_without_log_or_data_has_no_curve_and_a_damaged_one_is_shown(runs: list[Path], tmp_path: Path) -> None:
    for name, file in (("log", "log.jsonl"), ("data", "data/manifest.json")):
        copy = Path(shutil.copytree(runs[0], tmp_path / name))
        (copy / file).unlink()
    result = Path(shutil.copytree(runs[0], tmp_path / "result"))
    (result / "score.json").write_text("{}")
    found = compare_groups({"broken": [tmp_path / "log", tmp_path / "data"], "damaged": [result]})
    assert [Path(curve.folder).name for same in loss_curves(found.groups).values() for curve in same] == ["result"]
    assert "damaged" in comparison_page(found)


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_requests_and_overflow(tmp_path: Path) -> None:
    file, names = tmp_path / "page.html", [f"a/folder/with/a/long/name/of/a/group/{'x' * 60}/{i}" for i in range(8)]
    groups = [
        group(name, *(entry(f"{name}/{s}", 1.2 + s / 10 - i / 50, size=10 ** (i % 4 + 3) + s) for s in range(3)))
        for i, name in enumerate(names)
    ]
    long = [SettingDifference("model." + "deep." * 20, "value" * 40, "other" * 40)]
    file.write_text(comparison_page(msgspec.structs.replace(comparison(groups), settings=[long] * 7)))
    with open_browser() as browser:
        for width, dark in ((390, False), (1280, True)):
            check_page(browser, file, width, dark=dark)
