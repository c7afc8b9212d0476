"""Workers that a test starts are forked from a server, without the time of their imports."""

from helpers.forked import forked_workers

__all__ = ["forked_workers"]
