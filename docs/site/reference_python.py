"""The page of the Python interface, whose signatures and docstrings mkdocstrings reads from the source."""

from __future__ import annotations

import bitgolf

HEAD = """# Python

Every name of `import bitgolf`, in the order in which they are needed. [Use Python](../api.md) introduces them with examples; `bitgolf.parts` has the classes of [the other pages](parts_model.md) of this reference.
"""


def python_page() -> str:
    """Return the page: a directive of mkdocstrings for each public name but `parts`, which is a module of all parts."""
    return "\n\n".join([HEAD, *(f"::: bitgolf.{name}" for name in bitgolf.__all__ if name != "parts")]) + "\n"
