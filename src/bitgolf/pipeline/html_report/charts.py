"""The charts of a run's page, by section."""

from __future__ import annotations

from bitgolf.pipeline.html_report.bit_charts import bit_charts
from bitgolf.pipeline.html_report.contents import ReportContents
from bitgolf.pipeline.html_report.quantization_charts import quantization_charts
from bitgolf.pipeline.html_report.result_charts import result_charts
from bitgolf.pipeline.html_report.training_charts import training_charts


def run_charts(contents: ReportContents) -> list[tuple[str, list[str]]]:
    """(title, cards) of each section of charts for which a run has numbers."""
    sections = [
        ("Result", result_charts(contents)),
        ("Training", training_charts(contents)),
        ("Where the bits go", bit_charts(contents.result)),
        ("Quantization", quantization_charts(contents.tensors)),
    ]
    return [(title, cards) for title, cards in sections if cards]
