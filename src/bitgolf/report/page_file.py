"""The file of a web page: how it begins, and what it may replace."""

from __future__ import annotations

from pathlib import Path

from bitgolf.errors import UsageError

PAGE_START = "<!doctype html>"


def check_replaceable(page: Path) -> None:
    """Raise `UsageError` if writing a page would replace something else."""
    if page.is_dir():
        raise UsageError("expected a file for the page, this is a folder", where=str(page))
    if page.exists():
        with page.open("rb") as handle:
            if handle.read(len(PAGE_START)) != PAGE_START.encode():
                raise UsageError("the file exists and is no page", where=str(page), hint="choose another name")
