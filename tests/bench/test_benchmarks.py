"""Benchmarks that train run on any text, keep the lines of different texts apart, and print tables of published lines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import ablate
import compression
import corpus
import data_make
import pytest
import scoring
from result_lines import read_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text", 0)


def write_text(folder: Path, shift: int) -> Path:
    folder.mkdir()
    for i in range(40):
        words = [f"word{(7 * i + j * j + shift) % 397}" for j in range(400)]
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


def run(module: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    """The benchmark as a command, in a folder that has nothing else."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()


def options(folder: Path, *text: Path) -> argparse.Namespace:
    return argparse.Namespace(text=list(text) or None, data=folder)


def test_a_text_that_does_not_exist_is_named_and_the_published_one_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as error:
        run(ablate, monkeypatch, tmp_path, "--text", "nowhere.jsonl", "--steps", "1")
    assert "nowhere.jsonl does not exist" in str(error.value) and corpus.ENGLISH in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_each_text_has_an_identifier_and_shards_are_made_once(tmp_path: Path, text: Path) -> None:
    folder = corpus.shards_folder(options(tmp_path / "shards", text))
    made = (folder / "manifest.json").stat().st_mtime_ns
    assert corpus.shards_folder(options(folder, text)) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    again = corpus.shards_folder(options(tmp_path / "again", text))
    other = corpus.shards_folder(options(tmp_path / "other", write_text(tmp_path / "text2", 1)))
    assert corpus.corpus_id(folder) == corpus.corpus_id(again) != corpus.corpus_id(other)


@pytest.mark.slow
def test_ablation_runs_goes_on_and_keeps_texts_apart(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--steps", "1", "--tokens", "512", "--seeds", "0")
    run(ablate, monkeypatch, tmp_path, "--text", str(text), *small, "--techniques", "base")
    run(ablate, monkeypatch, tmp_path, "--text", str(text), *small, "--techniques", "base", "SquaredLeakyReLU")
    lines = read_lines(tmp_path / "runs" / "ablation.jsonl")
    assert [line["technique"] for line in lines] == ["base", "SquaredLeakyReLU"]
    assert all(0 < line["bpb"][kind] < 20 for line in lines for kind in ("float", "int6"))
    assert len({line["corpus"] for line in lines}) == 1 and lines[0]["hash"] != lines[1]["hash"]
    write_text(tmp_path / "text2", 1)
    run(ablate, monkeypatch, tmp_path, "--text", "text2", *small, "--techniques", "base")
    assert len({line["corpus"] for line in read_lines(tmp_path / "runs" / "ablation.jsonl")}) == 2


def test_data_make_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--megabytes", "1", "--kinds", "bytes", "--processes", "1", "--results", str(tmp_path / "data.jsonl"))
    run(data_make, monkeypatch, tmp_path, *words)
    (line,) = read_lines(tmp_path / "data.jsonl")
    assert 1_000_000 <= line["bytes"] < 2_200_000 and line["kind"] == "bytes" and line["processes"] == 1
    assert line["megabytes_per_second"] == pytest.approx(line["bytes"] / line["seconds"] / 1e6, rel=0.05)
    assert 20 < line["peak_memory_megabytes"] < 2_000


@pytest.mark.parametrize(
    ("module", "file", "document"),
    [(compression, "compression.jsonl", "measurements.md"), (ablate, "ablation.jsonl", "techniques.md")],
)
def test_published_lines_print_as_the_table_of_the_documents(
    module: Any, file: str, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run(module, monkeypatch, tmp_path, "--table", str(ROOT / "results" / file))
    table = capsys.readouterr().out.strip()
    assert (
        len(table.splitlines()) > 10 and "not measured" not in table and table in (ROOT / "docs" / document).read_text()
    )
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_drawn_from_the_published_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import plot_compression

    lines = [json.loads(line) for line in (ROOT / "results" / "compression.jsonl").read_text().splitlines()]
    points = plot_compression.points(lines)
    published, ours = points["GPTQ int6, SdClip, Brotli"], points["all of ours"]
    assert published.megabytes == pytest.approx(2.301046, abs=1e-6) and published.bpb > ours.bpb > 1.78
    results = str(ROOT / "results" / "compression.jsonl")
    for name in ("a.svg", "b.svg"):
        run(plot_compression, monkeypatch, tmp_path, results, "--out", str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


@pytest.mark.exhaustive
def test_every_benchmark_that_trains_runs_with_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On the default text, in an empty folder, at the smallest size."""
    run(ablate, monkeypatch, tmp_path, "--steps", "1", "--tokens", "512", "--seeds", "0", "--techniques", "base")
    small = ("--steps", "1", "--tokens", "1024", "--seeds", "0", "--calibration-batches", "1")
    run(compression, monkeypatch, tmp_path, *small, "--schemes", "all of ours", "fewest bytes")
    assert "| all of ours |" in capsys.readouterr().out
    run(scoring, monkeypatch, tmp_path, "--steps", "1", "--targets", "512", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["method"] for line in lines] == ["contiguous", "sliding", "cached"]
    assert len({line["corpus"] for line in lines}) == 1 and all(line["targets"] == 512 for line in lines)
