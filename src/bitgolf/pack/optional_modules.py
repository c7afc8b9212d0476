"""Deferred import of compressor modules. `Coder.self_test` reports a module that is not installed before training."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bitgolf.errors import BitgolfError


def import_compressor(name: str) -> Any:
    """Import the module of a compressor. Raises `BitgolfError` with a hint on installing it if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        standard = name in ("zlib", "lzma")
        hint = f"use a Python that was built with {name}" if standard else f"pip install {name}"
        raise BitgolfError(f"the compressor {name} is not installed", where=name, hint=hint) from error
