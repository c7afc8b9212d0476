"""Observers of a run: they receive its events, and may ask for its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

Observer = Callable[[dict[str, Any]], str | None]
"""Receives each event of a run as `log.jsonl` has it. Returns why the run should stop, or None if it should go on.

With several processes it is called by a thread of the process that started them, a moment after the event.
"""


class StopRequest:
    """Whether an observer asked for the end of a run, and why. It may be made by any thread; the first reason counts."""

    def __init__(self) -> None:
        self.reason = ""
        self._lock, self._actions = Lock(), list[Callable[[], object]]()

    def request(self, reason: str) -> None:
        """Ask for the end of the run."""
        with self._lock:
            if self.reason:
                return
            self.reason, actions = reason, list(self._actions)
        for act in actions:
            act()

    @contextmanager
    def calling(self, act: Callable[[], object]) -> Iterator[None]:
        """Within the block, call `act` when the request is made; at once if it was made before."""
        with self._lock:
            self._actions.append(act)
            made = self.reason
        try:
            if made:
                act()
            yield
        finally:
            with self._lock:
                self._actions.remove(act)
