"""Types of the callbacks by which scoring and compression report progress."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int, float], None]
"""Called with the number of targets done, the total number of targets, and the bits so far, all of this process."""

LogLine = Callable[[str], None]
"""Called with one line for the log, without a newline."""
