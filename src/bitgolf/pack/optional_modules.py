"""Compressors' modules, imported when they are used: Python may be built without them, and `Coder.self_test` says so early."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bitgolf.errors import BitgolfError


def import_compressor(name: str) -> Any:
    """The module. Raises `BitgolfError` where it is missing, with what to do."""
    try:
        return import_module(name)
    except ImportError as error:
        own = name in ("zlib", "lzma")
        raise BitgolfError(
            f"the compressor {name} is missing",
            where=name,
            hint="use a Python built with it (its headers were missing)" if own else f"pip install {name}",
        ) from error
