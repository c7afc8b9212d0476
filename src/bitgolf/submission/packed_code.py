"""Packed scripts, unpacked by reading: `exec(decompress(b85decode("…")))` and its variants are evaluated, never run.

Only literals, names assigned once, and the functions of `_DECODERS` have a value here; everything else is unknown. The
output of each decompression is bounded, so a small file cannot fill the memory.
"""

from __future__ import annotations

import ast
import base64
import binascii
import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import brotli
import zstandard

from bitgolf.submission.self_extracting import LARGEST_CODE, extracted
from bitgolf.submission.source import Source

MOST_LAYERS = 4
"""Packed scripts that may contain one another."""
LARGEST_DICTIONARY = 64_000_000
"""Memory in bytes that the dictionary of an LZMA filter may take."""


def unpack(script: Source) -> list[Source]:
    """Return a script and, if it executes packed code, the layers below it, outermost first."""
    layers = [script]
    while len(layers) <= MOST_LAYERS and layers[-1].tree is not None:
        code = extracted(layers[-1].text) or _executed_code(layers[-1].tree)
        if code is None:
            break
        layers[-1].is_packed = True
        layers.append(Source(f"{layers[-1].name} (unpacked)", code))
    return layers


def _executed_code(tree: ast.Module) -> str | None:
    """Return the text that the module's `exec` runs, or None if there is none or its argument is unknown."""
    evaluator = _Evaluator()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            evaluator.add_import(statement)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            evaluator.assign(statement.targets[0], statement.value)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id == "exec" and call.args:
                value = evaluator.value(call.args[0])
                if isinstance(value, bytes):
                    return value.decode("utf-8", errors="replace")
                return value if isinstance(value, str) else None
    return None


class _Evaluator:
    """Values of the expressions from which packed scripts are made. None stands for an unknown value."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._imports: dict[str, str] = {}

    def add_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        prefix = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
        for name in statement.names:
            self._imports[name.asname or name.name] = prefix + name.name

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._names[target.id] = self.value(value)

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression, or None if it is unknown or cannot be computed."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self._names.get(node.id)
            case ast.List() | ast.Tuple():
                return [self.value(element) for element in node.elts]
            case ast.Dict():
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                return dict(zip(keys, map(self.value, node.values), strict=True))
            case ast.BinOp(op=ast.Add()):
                return _sum(self.value(node.left), self.value(node.right))
            case ast.Attribute():
                return _CONSTANTS.get(self._dotted(node))
            case ast.Call():
                return self._call(node)
        return None

    def _dotted(self, node: ast.expr) -> str:
        """Return the full name of a function, with the aliases of imports resolved."""
        if isinstance(node, ast.Name):
            return self._imports.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        return ""

    def _call(self, node: ast.Call) -> Any:
        arguments = [self.value(argument) for argument in node.args]
        keywords = {keyword.arg: self.value(keyword.value) for keyword in node.keywords if keyword.arg}
        if decoder := _DECODERS.get(self._dotted(node.func)):
            return _tried(decoder, arguments, keywords)
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            method = _METHODS.get((type(owner), node.func.attr))
            return _tried(method, [owner, *arguments], keywords) if method else None
        return None


def _tried(function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Call a decoder; data that it rejects have no known value."""
    if None in arguments:
        return None
    try:
        return function(*arguments, **keywords)
    except (ValueError, TypeError, LookupError, EOFError, OSError, MemoryError, zlib.error, lzma.LZMAError):
        return None
    except (brotli.error, zstandard.ZstdError, OverflowError, AttributeError):
        return None


def _sum(left: Any, right: Any) -> Any:
    same = type(left) is type(right) and isinstance(left, str | bytes)
    return left + right if same and len(left) + len(right) <= LARGEST_CODE else None


def _bounded(output: bytes) -> bytes:
    if len(output) > LARGEST_CODE:
        raise ValueError(f"more than {LARGEST_CODE:,} bytes")
    return output


def _zlib(data: bytes, wbits: int = zlib.MAX_WBITS, **_: Any) -> bytes:
    return _bounded(zlib.decompressobj(wbits).decompress(data, LARGEST_CODE + 1))


def _gzip(data: bytes) -> bytes:
    return _zlib(data, zlib.MAX_WBITS | 16)


def _bz2(data: bytes) -> bytes:
    return _bounded(bz2.BZ2Decompressor().decompress(data, LARGEST_CODE + 1))


def _lzma(data: bytes, format: int = lzma.FORMAT_AUTO, memlimit: Any = None, filters: Any = None) -> bytes:
    if any(f.get("dict_size", 0) > LARGEST_DICTIONARY for f in filters or ()):
        raise ValueError("the dictionary is too large")
    limit = None if format == lzma.FORMAT_RAW else 4 * LARGEST_DICTIONARY
    return _bounded(lzma.LZMADecompressor(format, limit, filters).decompress(data, LARGEST_CODE + 1))


def _brotli(data: bytes) -> bytes:
    return _bounded(brotli.Decompressor().process(data, output_buffer_limit=LARGEST_CODE + 1))


def _zstandard(data: bytes, **_: Any) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=LARGEST_DICTIONARY).stream_reader(data) as reader:
        return _bounded(reader.read(LARGEST_CODE + 1))


def _join(separator: Any, parts: Any) -> Any:
    return None if None in parts else separator.join(parts)


_DECODERS: dict[str, Callable[..., Any]] = {
    "base64.b64decode": lambda data, *_, **__: base64.b64decode(data),
    "base64.standard_b64decode": base64.b64decode,
    "base64.urlsafe_b64decode": base64.urlsafe_b64decode,
    "base64.b32decode": base64.b32decode,
    "base64.b16decode": base64.b16decode,
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "base64.decodebytes": base64.decodebytes,
    "binascii.unhexlify": binascii.unhexlify,
    "binascii.a2b_base64": binascii.a2b_base64,
    "bytes.fromhex": bytes.fromhex,
    "zlib.decompress": _zlib,
    "gzip.decompress": _gzip,
    "bz2.decompress": _bz2,
    "lzma.decompress": _lzma,
    "brotli.decompress": _brotli,
    "zstandard.decompress": _zstandard,
    "compile": lambda code, *_, **__: code,
    "str": lambda data, *_: data.decode(),
}
_METHODS: dict[tuple[type, str], Callable[..., Any]] = {
    (bytes, "decode"): lambda data, *_, **__: data.decode("utf-8", errors="replace"),
    (str, "encode"): lambda text, *_, **__: text.encode(),
    (str, "strip"): str.strip,
    (bytes, "strip"): bytes.strip,
    (str, "replace"): str.replace,
    (bytes, "replace"): bytes.replace,
    (str, "join"): _join,
    (bytes, "join"): _join,
}
_CONSTANTS: dict[str, Any] = {
    name: getattr(lzma, name.split(".")[1])
    for name in (
        *("lzma.FORMAT_RAW", "lzma.FORMAT_XZ", "lzma.FORMAT_ALONE", "lzma.FORMAT_AUTO"),
        *("lzma.FILTER_LZMA1", "lzma.FILTER_LZMA2", "lzma.PRESET_EXTREME", "lzma.FILTER_DELTA"),
    )
}
