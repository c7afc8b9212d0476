"""Rules on packages that a script replaces by weaker ones, without a word, where they are not installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.source import dotted

COMPRESSORS = {"zstandard", "zstd", "brotli", "lzma", "constriction", "pyminify", "python_minifier", "bz2"}
KERNELS = {"flash_attn", "flash_attn_interface", "flash_attn_3", "triton", "xformers", "fla", "mamba_ssm"}
SPEAKS = ("print", "log", "warn", "exit", "_exit", "echo")


def silent_compressor(record: Record) -> Found:
    yield from _silent(record, COMPRESSORS, "a weaker compressor is used, and the artifact is larger")


def silent_kernel(record: Record) -> Found:
    yield from _silent(record, KERNELS, "a slower implementation is used")


def _silent(record: Record, packages: set[str], consequence: str) -> Found:
    for script in record.folder.code:
        for node in script.all(ast.Try):
            if (package := _imported(node, packages)) and _handlers_are_silent(node):
                yield script.name, node.lineno, f"Where {package} is not installed, {consequence}, without a message."


def _imported(node: ast.Try, packages: set[str]) -> str:
    """Return the package of the set that a `try` imports, "" if it imports none."""
    for statement in node.body:
        for name in _modules(statement):
            if name.split(".")[0] in packages:
                return name.split(".")[0]
    return ""


def _modules(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (name.name for name in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module:
        yield statement.module


def _handlers_are_silent(node: ast.Try) -> bool:
    """Whether every handler of an import error neither raises nor says anything, nor imports another form of it."""
    handlers = [h for h in node.handlers if _catches_import(h)]
    return bool(handlers) and not any(_speaks(child) for handler in handlers for child in ast.walk(handler))


def _catches_import(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {dotted(name) for name in ([*handler.type.elts] if isinstance(handler.type, ast.Tuple) else [handler.type])}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _speaks(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        return True
    called = dotted(node.func).lower() if isinstance(node, ast.Call) else ""
    return any(word in called for word in SPEAKS)


RULES = (
    RecordRule("silent-compressor", "warning", silent_compressor),
    RecordRule("silent-kernel", "note", silent_kernel),
)
