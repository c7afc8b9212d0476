"""The picture of the README, bits per byte against bytes: `python bench/plot_compression.py [RESULTS] [--out FILE.svg]`.

Each point is a compression scheme of `bench/compression.py`: mean over the seeds, with the standard deviation of the loss
that packing costs. Needs matplotlib: `pip install bitgolf[plot]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib  # pyright: ignore[reportMissingImports]  # of the extra `plot`

matplotlib.use("svg")
from matplotlib import pyplot  # pyright: ignore[reportMissingImports]
from matplotlib.axes import Axes  # pyright: ignore[reportMissingImports]

PUBLISHED, OURS = "#8a5a00", "#0b5fa5"
LABELS = {
    "GPTQ int6, SdClip, Brotli": ("GPTQ int6 + Brotli, as in most records", PUBLISHED),
    "trellis alone: 256 states": ("trellis-coded quantization + Brotli", OURS),
    "all of ours": ("trellis, step sizes by sensitivity, range coder", OURS),
    "fewest bytes": ("the same scheme,\nat the loss of GPTQ int6", OURS),
}


class Point(NamedTuple):
    megabytes: float
    bpb: float
    deviation: float


def points(lines: list[dict[str, Any]]) -> dict[str, Point]:
    """Scheme -> its mean size and bits per byte, and the standard deviation over the seeds of the bits that packing adds."""
    averaged = statistics.mean({line["seed"]: line["averaged"] for line in lines}.values())
    found = {}
    for name in LABELS:
        own = [line for line in lines if line["scheme"] == name]
        if own:
            gaps = [line["gap"] for line in own]
            size = statistics.mean(line["bytes"] for line in own) / 1e6
            deviation = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
            found[name] = Point(size, averaged + statistics.mean(gaps), deviation)
    return found


def draw(lines: list[dict[str, Any]], axes: Axes) -> None:
    seeds = {line["seed"]: line["averaged"] for line in lines}
    unquantized = statistics.mean(seeds.values())
    axes.axhline(unquantized, color="#666666", linewidth=1, linestyle="--")
    axes.annotate("before packing (float32)", (0.02, unquantized), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", fontsize=9, color="#444444")  # fmt: skip
    for name, point in points(lines).items():
        label, color = LABELS[name]
        axes.errorbar(point.megabytes, point.bpb, yerr=point.deviation, fmt="o", color=color, capsize=3)
        side = -1 if point.megabytes > 1.8 else 1
        axes.annotate(label, (point.megabytes, point.bpb), xytext=(side * 9, 0), textcoords="offset points", fontsize=9, color=color, ha="right" if side < 0 else "left", va="center")  # fmt: skip
    axes.set_xlabel("bytes of the packed model (MB)")
    axes.set_ylabel("bits per byte on held-out text")
    axes.set_title(
        f"Packing one model of 5.3 M parameters, {len(seeds)} seeds, English prose (small scale)", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results/compression.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/compression.svg"), help="file of the picture")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.results.read_text().splitlines()]
    pyplot.rcParams["svg.hashsalt"] = "bitgolf"  # the same results give the same file
    figure, axes = pyplot.subplots(figsize=(7.2, 3.9), layout="constrained")
    draw(lines, axes)
    figure.savefig(options.out, metadata={"Date": None})
    print(options.out)


if __name__ == "__main__":
    main()
