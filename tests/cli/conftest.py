"""Runs in the process of the tests write their page without charts."""

from helpers.report_charts import no_charts

__all__ = ["no_charts"]
