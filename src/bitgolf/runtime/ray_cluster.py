"""An ordered map over the workers of a Ray cluster. Needs the extra `cluster`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import TracebackType
from typing import Any, TypeVar

from bitgolf.errors import BitgolfError, UsageError
from bitgolf.runtime.ordered_map import PENDING_PER_WORKER, OrderedMap, in_order

_CONNECT_SECONDS = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class RayCluster(OrderedMap):
    """Applies the function in tasks of a Ray cluster, on all its hosts.

    address: of the cluster's head, as in `ray.init`; "auto" finds a running cluster. cores, gpus: of a task. Raises `UsageError` if Ray is not
    installed or the cluster cannot be reached.
    """

    def __init__(self, address: str, *, cores: int = 1, gpus: int = 0) -> None:
        self._task = {"num_cpus": cores, "num_gpus": gpus}
        try:
            self._ray: Any = import_module("ray")
        except ImportError as error:
            hint = "pip install 'bitgolf[cluster]', or leave --cluster out to use the cores of this host"
            raise UsageError("--cluster needs the package ray", where=f"--cluster {address}", hint=hint) from error
        try:
            _reach(address)
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            hint = "start one with `ray start --head`, or leave --cluster out"
            message = f"no Ray cluster can be reached ({error})"
            raise UsageError(message, where=f"--cluster {address}", hint=hint) from error
        found = self._ray.cluster_resources()
        self.workers = max(1, int(found.get("GPU", 0)) // gpus if gpus else int(found.get("CPU", 1)) // cores)
        self.name = f"a Ray cluster with {self.workers} {'GPUs' if gpus else 'cores'}"

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        stored = self._ray.put(function)  # sent to each host once
        task = self._ray.remote(**self._task, max_retries=3)(_apply)
        limit = self.workers * (1 + PENDING_PER_WORKER)
        return in_order((task.remote(stored, item) for item in items), limit, self._result)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, BitgolfError) else error from None
        except self._ray.exceptions.RayError as error:
            message = f"a task on the Ray cluster failed ({error})"
            raise BitgolfError(message, hint="see the logs of the cluster; the same command continues") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raise `OSError` if nothing answers at HOST:PORT; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _apply(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
