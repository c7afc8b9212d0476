"""Charts of the quantization error of tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bitgolf.quantize.encoding import TensorReport
from bitgolf.report.charts.points import DotRow, dot_chart
from bitgolf.report.web_page import chart_card, table

MOST_ROWS = 24
SHOWN_TENSORS = 500


def quantization_charts(tensors: Sequence[TensorReport]) -> list[str]:
    """The cards for which there are tensors."""
    return [card for card in (_error_card(tensors), _rate_card(tensors)) if card]


def kind_of(path: str) -> str:
    """The path of a tensor without the number of its layer and the word `weight`: equal in all layers."""
    return re.sub(r"^blocks\.\d+\.", "", path).removesuffix(".weight")


def _dot_rows(tensors: Sequence[TensorReport], measure: str) -> list[DotRow]:
    """The kinds of tensors with the most weights, each with the positive values of its tensors."""
    sizes, values = dict[str, int](), dict[str, list[float]]()
    for tensor in tensors:
        kind, value = kind_of(tensor.path), getattr(tensor, measure)
        sizes[kind] = sizes.get(kind, 0) + tensor.elements
        values.setdefault(kind, []).extend([value] * (value > 0))
    largest = sorted((kind for kind in sizes if values[kind]), key=lambda kind: -sizes[kind])[:MOST_ROWS]
    return [DotRow(kind, values[kind]) for kind in largest]


def _error_card(tensors: Sequence[TensorReport]) -> str:
    rows = _dot_rows(tensors, "rms_error")
    if not rows:
        return ""
    total = sum(tensor.elements * tensor.rms_error**2 for tensor in tensors)
    note = (
        f"{len(tensors):,} tensors, one dot each; tensors of all layers in one row, the rows with the most weights first."
        " The table has the share of each tensor in the sum of squared errors."
    )
    worst = sorted(tensors, key=lambda tensor: -tensor.elements * tensor.rms_error**2)[:SHOWN_TENSORS]
    cells = [
        (t.path, t.codec, f"{t.elements:,}", f"{t.bits_per_weight:.3f}", f"{t.rms_error:.3g}", f"{t.max_error:.3g}",
         f"{t.elements * t.rms_error**2 / total:.1%}")
        for t in worst
    ]  # fmt: skip
    columns = ("tensor", "codec", "weights", "bits per weight", "rms error", "largest error", "share of squared error")
    title = "Quantization error by tensor (rms, units of the weights)"
    svg = dot_chart("errors", f"Dots: {title}, as in the table", rows, label="rms error, units of the weights")
    return chart_card(title, svg, note, table(columns, cells, text_columns=2))


def _rate_card(tensors: Sequence[TensorReport]) -> str:
    rows = _dot_rows(tensors, "bits_per_weight")
    if not rows:
        return ""
    weights = sum(tensor.elements for tensor in tensors)
    mean = sum(tensor.elements * tensor.bits_per_weight for tensor in tensors) / weights
    title = "Entropy by tensor (bits per weight)"
    svg = dot_chart("rates", f"Dots: {title}, mean {mean:.3f}", rows, label="bits per weight, order-0 entropy")
    note = f"{mean:.3f} bits per weight on average over {weights:,} weights, scales and all other arrays included."
    cells = [(row.label, f"{len(row.values):,}", f"{min(row.values):.3f}", f"{max(row.values):.3f}") for row in rows]
    return chart_card(title, svg, note, table(("kind of tensor", "tensors", "least", "largest"), cells))
