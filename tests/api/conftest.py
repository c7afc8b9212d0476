"""Workers that a test starts are forked from a server, without the time of their imports; pages have no charts."""

from helpers.forked import forked_workers
from helpers.report_charts import no_charts

__all__ = ["forked_workers", "no_charts"]
