"""A process that runs JavaScript, for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.javascript import Node, open_node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with open_node() as opened:
        yield opened
