"""The picture of the README, bits per byte against bytes: `python bench/plot_compression.py [RESULTS] [--out FILE.svg]`.

Each point is a compression scheme of `bench/compression.py`: mean over the seeds, with the standard deviation of the loss
that packing costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bitgolf.report.figures import FONT_SIZE, MAIN, MUTED, OTHER, chart_style, new_figure, standalone_svg

PUBLISHED, OURS = OTHER.light, MAIN.light
LABELS = {
    "GPTQ int6, SdClip, Brotli": ("GPTQ int6 + Brotli, as in most records", PUBLISHED),
    "trellis alone: 256 states": ("trellis-coded quantization + Brotli", OURS),
    "all of ours": ("trellis, step sizes by sensitivity, range coder", OURS),
    "fewest bytes": ("the same scheme,\nat the loss of GPTQ int6", OURS),
}


DESCRIPTION = "Bits per byte against bytes of one model, packed by the usual method of the challenge and by ours"


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
    axes.axhline(unquantized, color=MUTED.light, linewidth=1, linestyle="--")
    axes.annotate("before packing (float32)", (0.02, unquantized), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", color=MUTED.light)  # fmt: skip
    for name, point in points(lines).items():
        label, color = LABELS[name]
        axes.errorbar(point.megabytes, point.bpb, yerr=point.deviation, fmt="o", color=color, capsize=3)
        side = -1 if point.megabytes > 1.8 else 1
        axes.annotate(label, (point.megabytes, point.bpb), xytext=(side * 9, 0), textcoords="offset points", color=color, ha="right" if side < 0 else "left", va="center")  # fmt: skip
    axes.set_xlabel("bytes of the packed model (MB)")
    axes.set_ylabel("bits per byte on held-out text", rotation_mode="anchor")
    axes.set_title(
        f"Packing one model of 5.3 M parameters, {len(seeds)} seeds, English prose (small scale)", fontsize=FONT_SIZE
    )
    axes.margins(x=0.08, y=0.12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results/compression.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/compression.svg"), help="file of the picture")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.results.read_text().splitlines()]
    with chart_style():
        figure, axes = new_figure(720, 390)
        draw(lines, axes)
    options.out.write_text(standalone_svg(figure, "compression", DESCRIPTION), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
