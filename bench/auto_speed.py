"""Time of a training step by shape, for the rules of the recipe `auto`: `python bench/auto_speed.py [--fit FILE]`

Models of several widths, layers and vocabularies are trained in turn, a step each, on random tokens; the fastest step of each
is its time, so that other programs disturb it little. Appends a JSON line for each shape. `--fit FILE` prints the constants
of `recipes/scaling_laws.py` that fit the lines of a file best, by the spread of the logarithm of cost by time, and measures
nothing.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from result_lines import append_line, read_lines

from bitgolf.pipeline.machine_speed import Probe, probe_trainer
from bitgolf.recipes import scaling_laws
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.runtime.progress import TrainingProgress

SHAPES = ((2, 64, 1024), (2, 64, 4096), (2, 128, 2048), (4, 128, 1024), (2, 256, 1024), (2, 128, 8192), (4, 64, 1024))
"""Layers, width, vocabulary."""
ROWS, LENGTH, ROUNDS = 8, 256, 6


def measure(out: Path) -> None:
    """Time all shapes in turn. The first round is warm-up."""
    device = select_device(device_type="cpu")
    probes = [Probe(width, vocab, ROWS, LENGTH, layers) for layers, width, vocab in SHAPES]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(i) for i in range(len(probes))]
        for place in places:
            place.mkdir()
        trainers = [probe_trainer(probe, place, device) for probe, place in zip(probes, places, strict=True)]
        times: list[list[float]] = [[] for _ in probes]
        for step, (trainer, own) in itertools.product(range(ROUNDS), list(zip(trainers, times, strict=True))):
            began = time.process_time()
            trainer.step(step, TrainingProgress(step, 1 << 20, 0.0, 0.0))
            own.append(time.process_time() - began)
    for (layers, width, vocab), own in zip(SHAPES, times, strict=True):
        shape = {"layers": layers, "width": width, "vocab": vocab, "batch_tokens": ROWS * LENGTH}
        line = {"bench": "auto_speed", **shape, "threads": torch.get_num_threads(), "seconds": round(min(own[1:]), 4)}
        append_line(out, line | {"environment": collect_environment()})


def fit(lines: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """(STREAM_FLOPS, LOGIT_FLOPS, operations per second, standard deviation of the logarithm of cost by time)."""
    best = (math.inf, 0.0, 0.0, 0.0)
    for stream, logit in itertools.product(range(0, 20_001, 500), range(0, 1_501, 50)):
        logs = [math.log(cost(line, stream, logit) * line["batch_tokens"] / line["seconds"]) for line in lines]
        best = min(best, (statistics.pstdev(logs), stream, logit, math.exp(statistics.mean(logs))))
    deviation, stream, logit, speed = best
    return stream, logit, speed, deviation


def cost(line: dict[str, Any], stream: float, logit: float) -> float:
    """`scaling_laws.token_cost` with other constants."""
    sizes = Probe(line["width"], line["vocab"], ROWS, LENGTH, line["layers"]).sizes
    known = scaling_laws.token_cost(sizes, LENGTH, line["batch_tokens"])
    change = (stream - scaling_laws.STREAM_FLOPS) * sizes.layers * sizes.width
    return known + change + (logit - scaling_laws.LOGIT_FLOPS) * sizes.vocab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/auto_speed.jsonl"), help="file of the measured lines")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="print the constants that fit a file of lines")
    options = parser.parse_args()
    if options.fit:
        stream, logit, speed, deviation = fit(read_lines(options.fit))
        print(f"STREAM_FLOPS = {stream:g}, LOGIT_FLOPS = {logit:g}, {speed / 1e9:.1f} GFLOP/s, spread {deviation:.3f}")
        return
    torch.set_num_threads(options.threads)
    measure(options.out)


if __name__ == "__main__":
    main()
