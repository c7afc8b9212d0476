"""Figures of logs of many authors are found, and no text makes the reader fail."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.submission.log_figures import LogFigures

SCORES = [
    (
        "final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570",
        "quantized",
        1.2243657,
        2.07269931,
        None,
    ),
    (
        "quantized_ttt_phased val_loss:2.32239991 val_bpb:1.06124613 eval_time:455128ms",
        "adapted",
        1.06124613,
        2.32239991,
        455.128,
    ),
    (
        "quantized_sliding_window val_loss:2.7967 val_bpb:1.08271394 eval_time:121183ms",
        "window",
        1.08271394,
        2.7967,
        121.183,
    ),
    (
        "diagnostic pre-quantization post-ema val_loss:2.3317 val_bpb:1.0654 eval_time:6737ms",
        "averaged",
        1.0654,
        2.3317,
        6.737,
    ),
    ("4932/20000 val_loss: 2.3570 val_bpb: 1.0770", "training", 1.0770, 2.3570, None),
    (
        "[2026-04-01 10:00:00] step:9950/20000 val_loss:1.9 val_bpb:1.1812 train_time:597000ms",
        "training",
        1.1812,
        None,
        None,
    ),
    ("  ttt_chunk [12/400] bpb=1.0912 time=33.1s", "running", 1.0912, None, 33.1),
    ("sliding_eval [ 12.5%] 96/768 windows running_bpb=1.1005", "running", 1.1005, None, None),
    ("ttt_sliding:done val_loss=1.88 val_bpb=1.1123 elapsed=301.5s", "adapted", 1.1123, 1.88, 301.5),
    ("Final bits per byte: 1.2345", "quantized", 1.2345, None, None),
    ("  step  400 | BPB≈1.4521 | LR 1.0e-3 | 88s", "training", 1.4521, None, None),
]


@pytest.mark.parametrize(("line", "stage", "bpb", "nats", "seconds"), SCORES, ids=lambda value: str(value)[:24])
def test_a_score_is_read(line: str, stage: str, bpb: float, nats: float | None, seconds: float | None) -> None:
    (score,) = LogFigures("x.log", line).scores
    assert (score.stage, score.bpb) == (stage, bpb)
    assert nats is None or score.nats == nats
    assert score.seconds == (None if seconds is None else pytest.approx(seconds))


def test_the_source_at_the_start_of_a_log_has_no_figures() -> None:
    source = 'log0(f"val_bpb:{bpb:.4f} 1.0612")\n# val_bpb: 1.2244 is the baseline\nassert total_bytes == 1.25\n'
    assert not LogFigures("x.log", source).scores


def test_sizes_times_and_whole_numbers_are_read() -> None:
    text = (
        "seed: 42\nworld_size:8 grad_accum_steps:1\ntrain_loader:dataset:a train_shards:80\nval_tokens: 47851520\n"
        "  val_files: /data/datasets/fineweb10B_sp8192/fineweb_val_*.bin\n"
        "Total submission size quantized+brotli: 15,992,919 bytes\nGPTQ:collected 67 Hessians in 4.9s\n"
        "step:100/200 train_loss:3.1 train_time:10.0m step_avg:121.5ms\ntotal_eval_time:455.1s\n"
    )
    figures = LogFigures("x.log", text)
    assert (figures.seed, figures.dataset, figures.steps, figures.step_seconds) == (
        42,
        "fineweb10B_sp8192",
        100,
        0.1215,
    )
    assert {name: value for name, (value, _) in figures.whole.items()} == {
        "seed": 42,
        "world_size": 8,
        "train_shards": 80,
        "validation_tokens": 47851520,
    }
    assert [(size.size, size.line) for size in figures.sizes] == [(15992919, 6)]
    assert figures.calibration and figures.calibration.seconds == 4.9
    assert figures.training and figures.training.seconds == 600
    assert figures.total_evaluation and figures.total_evaluation.seconds == 455.1


@given(st.text(alphabet="bpbval_loss:=1.0 2,\n[%]step/time secondsMB", max_size=400) | st.text(max_size=200))
def test_no_text_makes_it_fail(text: str) -> None:
    LogFigures("x.log", text)


def test_a_hostile_line_takes_no_time() -> None:
    """Long runs of the characters that patterns repeat: the time stays linear."""
    started = time.process_time()
    for piece in (
        "val_bpb",
        "a" * 50_000 + " val_bpb:",
        "size " * 30_000 + ": 1",
        "1/2 " * 50_000 + "bpb 1.0",
        "total:" * 20_000,
    ):
        LogFigures("x.log", f"{piece * 2} bytes\n" * 20)
    assert time.process_time() - started < 2
