"""`report.html`: the result of a run as one page without external files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import msgspec

from bitgolf.pipeline.result import RunResult
from bitgolf.score.result import MethodResult

STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:52em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}td,th{padding:.15em 1.2em .15em 0;text-align:right}td:first-child,th:first-child{text-align:left}svg{width:100%;height:16em}"


SCORE_COLUMNS = ("method", "bpb", "without adaptation", "gain", "window", "stride", "documents", "order", "targets/s")


def render_report(result: RunResult, losses: Sequence[tuple[int, float]]) -> str:
    """The HTML page of a finished run. losses: (step, loss in nats per token) of its training."""
    title = f"{result.recipe} ({result.hash}), seed {result.seed}"
    bpb = [(k, f"{v:.4f}") for k, v in result.bpb.items() if v is not None]
    sizes = [(k, f"{v:,}") for k, v in msgspec.structs.asdict(result.bytes).items() if v is not None]
    seconds = [(k, f"{v:,.1f}") for k, v in result.seconds.items()]
    facts = [(k, str(getattr(result, k))) for k in ("device", "params", "tokens", "steps", "fits")]
    parts = [(r.part, f"{r.tensors:,}", f"{r.parameters:,}", f"{r.calls:,}") for r in result.part_usage]
    body = "".join(
        [
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{html.escape(' '.join([result.quick_note, result.sample_note]))}</p>",
            _table("Bits per byte, on held-out text", ("stage", "bpb"), bpb),
            _table("Scores of the artifact", SCORE_COLUMNS, map(_score_row, result.methods)),
            "<h2>Training loss (nats per token)</h2>" + curve(losses),
            _table("Bytes", ("", "bytes"), sizes),
            _table("Seconds", ("stage", "s"), seconds),
            _table("The run", ("", ""), facts),
            _table("Parts in use", ("part", "tensors", "parameters", "calls"), parts),
        ]
    )
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>{body}</html>\n"


def _score_row(m: MethodResult) -> tuple[str, ...]:
    without, gain = (
        "" if v is None else format(v, f) for v, f in ((m.bpb_without_adaptation, ".4f"), (m.gain, "+.4f"))
    )
    documents, speed = "cross-document" if m.cross_document else "isolated", f"{m.targets_per_second:,.0f}"
    return m.method, f"{m.bpb:.4f}", without, gain, f"{m.window:,}", f"{m.stride:,}", documents, m.order, speed


def curve(points: Sequence[tuple[int, float]], buckets: int = 300) -> str:
    """SVG line chart of (step, loss), averaged over `buckets` groups of successive points."""
    if len(points) < 2:
        return "<p>too few steps to draw</p>"
    size = max(1, len(points) // buckets)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(g[-1][0], sum(v for _, v in g) / len(g)) for g in groups]
    low, high, last = min(v for _, v in means), max(v for _, v in means), means[-1][0]
    scale = 280 / max(high - low, 1e-9)
    line = " ".join(f"{60 + 720 * s / last:.1f},{300 - (v - low) * scale:.1f}" for s, v in means)
    labels = f'<text x="0" y="25">{high:.2f}</text><text x="0" y="305">{low:.2f}</text><text x="730" y="330">step {last:,}</text>'
    return f'<svg viewBox="0 0 800 340"><polyline fill="none" stroke="#06c" stroke-width="2" points="{line}"/>{labels}</svg>'


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(c)}" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}{body}</table>"
