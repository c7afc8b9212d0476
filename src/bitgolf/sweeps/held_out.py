"""Bits per byte of a run's weights before quantization."""

from __future__ import annotations

from pathlib import Path

from bitgolf.model.parameters import read_weights
from bitgolf.pipeline.compression import load_meta_model
from bitgolf.pipeline.state import open_run
from bitgolf.report.log import RunLog
from bitgolf.runtime.device import select_device
from bitgolf.score.held_out_bpb import HeldOutBpb
from bitgolf.score.text import load_validation


def averaged_bpb(folder: Path, tokens: int) -> float:
    """Bits per byte of the averaged weights of a run, with its first scoring method on the first held-out tokens."""
    run = open_run(folder, RunLog(quiet=True))
    text, method = load_validation(run.data_folder), run.recipe().score[0]()
    measure = HeldOutBpb(load_meta_model(run), text, method, select_device(), min(tokens, text.num_targets))
    return measure.bpb(read_weights(run.files.averaged, stage="average"))
