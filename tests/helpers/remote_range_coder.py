"""The fixture of portable arithmetic on a processor for which the package constriction has no wheel (Linux on ARM).

As a program (`python -m helpers.remote_range_coder DESCRIPTOR`) it runs `helpers.portable_fixture` with a module
`constriction` that sends each call to the process at the other end of the descriptor, which answers with `serve`. Only
the range coder runs there; models, probabilities and their integers are computed here.
"""

from __future__ import annotations

import platform
import runpy
import sys
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any


def serve(connection: Connection) -> None:
    """Answer the calls of one program, until it ends, with constriction of this process."""
    import constriction  # which the program does not have

    stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # created at import
    coders: list[Any] = []
    with connection:  # closed after a panic of constriction, which is no `Exception`, too: the program then ends
        while True:
            try:
                coder, call, arguments = connection.recv()
            except (EOFError, ConnectionError):
                return
            try:
                if coder is None:
                    coders.append(getattr(stream.queue, call)(*arguments))
                    answer = len(coders) - 1
                else:
                    made = [stream.model.Categorical(*x[0], **x[1]) if isinstance(x, tuple) else x for x in arguments]
                    answer = getattr(coders[coder], call)(*made)
            except Exception as error:
                answer = error
            connection.send(answer)


class RemoteCoder:
    """A coder of the other process. Its methods are those of constriction."""

    def __init__(self, connection: Connection, kind: str, *arguments: Any) -> None:
        self._connection = connection
        self._number: int | None = None
        self._number = self._call(kind, *arguments)

    def _call(self, call: str, *arguments: Any) -> Any:
        self._connection.send((self._number, call, arguments))
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __getattr__(self, call: str) -> Any:
        return lambda *arguments: self._call(call, *arguments)


def constriction_of(connection: Connection) -> ModuleType:
    """A module with what the package uses of constriction. A model is the tuple of its arguments."""
    queue = SimpleNamespace(
        RangeEncoder=lambda *arguments: RemoteCoder(connection, "RangeEncoder", *arguments),
        RangeDecoder=lambda *arguments: RemoteCoder(connection, "RangeDecoder", *arguments),
    )
    model = SimpleNamespace(Categorical=lambda *arguments, **options: (arguments, options))
    module = ModuleType("constriction")
    vars(module)["stream"] = SimpleNamespace(queue=queue, model=model)
    return module


if __name__ == "__main__":
    sys.modules["constriction"] = constriction_of(Connection(int(sys.argv[1])))
    sys.argv = ["portable_fixture", "1"]
    print(platform.machine())
    runpy.run_module("helpers.portable_fixture", run_name="__main__")
