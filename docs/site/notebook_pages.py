"""Notebooks as Markdown: their text and code, with a link to the file."""

from __future__ import annotations

import json
from pathlib import Path


def notebook_page(file: Path) -> str:
    """Return a notebook as Markdown. Its first cell begins with the title; outputs are left out."""
    cells = json.loads(file.read_text())["cells"]
    blocks = [markdown_of_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    blocks.insert(1, f"This page is the notebook `docs/{file.name}` of the repository, without its outputs.")
    return "\n\n".join(blocks) + "\n"


def markdown_of_cell(kind: str, source: str) -> str:
    return f"```python\n{source}\n```" if kind == "code" else source
