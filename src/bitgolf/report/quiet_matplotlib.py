"""The import of matplotlib without its notes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Import matplotlib within this block: it prints nothing when it makes its cache of fonts, once on a machine."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
