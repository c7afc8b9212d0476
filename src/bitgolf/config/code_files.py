"""Code files: Python files of the user that define parts and recipes of their own.

A file is executed only if the user names it, by `--code` or as the recipe FILE.py:NAME; no path that is stored in an
artifact or in the folder of a run is ever executed. A file `my_parts.py` becomes the module `my_parts`, which code files
that are loaded after it may import. Worker processes execute the source that their launcher has read.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import keyword
import linecache
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from bitgolf.config.registry import REGISTRY, unregistered_on_error
from bitgolf.errors import BitgolfError, UsageError, quoted
from bitgolf.files import require_file

LARGEST_CODE_FILE = 1 << 20
"""Bytes."""


class CodeFile(NamedTuple):
    """A code file: its absolute path, and its contents when it was read.

    any_digest: use it also for what was made with another file of this name.
    """

    path: Path
    source: bytes
    any_digest: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def module(self) -> str:
        return self.path.stem

    @property
    def digest(self) -> str:
        """SHA-256 of the contents, 64 hexadecimal digits."""
        return hashlib.sha256(self.source).hexdigest()


CODE_FILES: dict[str, CodeFile] = {}
"""Name of the module -> the file, for the code files that have been loaded, in the order of loading."""


def load_code(paths: Iterable[Path], *, any_digest: bool = False) -> None:
    """Execute code files in the given order. A file that is loaded already, with the same contents, is not repeated.

    Raises `UsageError` if a file does not exist, is not valid Python, raises an exception, or has the name of another
    module or of another file.
    """
    files = [read_code(path, any_digest=any_digest) for path in paths]
    for file in files:
        if twin := next((other for other in files if other.module == file.module and other.path != file.path), None):
            message = f"two code files have the same name: {twin.path} and {file.path}"
            raise UsageError(message, where="--code", hint="rename one of them")
    load_code_files(files)


def read_code(path: Path, *, any_digest: bool = False) -> CodeFile:
    """Return a code file that is not executed yet. Raises `UsageError` if it cannot be one."""
    require_file(path)
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        message = "a code file needs the name of a Python module: letters, digits and _, and the suffix .py"
        raise UsageError(message, where=str(path), hint="rename the file, for example my_parts.py")
    with path.open("rb") as handle:
        source = handle.read(LARGEST_CODE_FILE + 1)
    if len(source) > LARGEST_CODE_FILE:
        raise UsageError(f"a code file has at most {LARGEST_CODE_FILE:,} bytes", where=str(path), hint="divide it")
    return CodeFile(path.absolute(), source, any_digest)


def load_code_files(files: Sequence[CodeFile]) -> None:
    """Execute code files that have been read. Another file that was loaded under the same name is replaced."""
    for file in files:
        loaded = CODE_FILES.get(file.module)
        if loaded is None or loaded.source != file.source:
            _check_name(file)
            unload_code(file.module)
            _execute(file)
            _adopt_imports(file)
            loaded = file
        CODE_FILES[file.module] = loaded._replace(any_digest=loaded.any_digest or file.any_digest)


def unload_code(module: str) -> None:
    """Remove a code file and its parts, if it is loaded."""
    if CODE_FILES.pop(module, None):
        sys.modules.pop(module, None)
        for name in [name for name, cls in REGISTRY.items() if cls.__module__ == module]:
            del REGISTRY[name]


def _check_name(file: CodeFile) -> None:
    """Raise `UsageError` if an installed module has the name of the file: imports would mean one or the other.

    Files in the current folder, where `python -m` finds modules, are not installed.
    """
    if file.module in CODE_FILES:
        return
    known = sys.modules.get(file.module)
    spec = None if known else importlib.util.find_spec(file.module)
    if known is None and spec is None:
        return
    found = getattr(known, "__file__", None) or (spec.origin if spec else None)  # None for modules without a file
    folders = {file.path.parent.resolve(), Path.cwd()}
    if found is None or Path(found).resolve().parent not in folders:
        message = f"a code file cannot have the name of an installed module: {file.module}"
        raise UsageError(message, where=str(file.path), hint="rename the file, for example my_parts.py")


def _execute(file: CodeFile) -> None:
    """Execute a file as a module. Raises `UsageError` for any exception in it; nothing of it is kept then."""
    spec = importlib.util.spec_from_file_location(file.module, file.path)
    assert spec, "a path with the suffix .py has a loader"
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(file.module)
    sys.modules[file.module] = module
    try:
        with unregistered_on_error():
            exec(compile(file.source, str(file.path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(file.module, None)
        if before:
            sys.modules[file.module] = before
        raise _failure(file, error) from error
    text = file.source.decode("utf-8", "replace")
    linecache.cache[str(file.path)] = (len(text), None, text.splitlines(keepends=True), str(file.path))


def _failure(file: CodeFile, error: BaseException) -> UsageError:
    """Return the error to report for an exception of a code file: its line, and what to do about it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file.path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    hint = error.hint if isinstance(error, BitgolfError) else "correct the file"
    if isinstance(error, ModuleNotFoundError) and error.name and (file.path.parent / f"{error.name}.py").exists():
        hint = f"give --code {error.name}.py before --code {file.name}: no file is loaded that you do not name"
    cause = error.msg if isinstance(error, SyntaxError) else str(error).partition("\n")[0]
    where = str(file.path) + (f":{line}" if line else "")
    return UsageError(f"the code file fails with {type(error).__name__}: {quoted(cause)}", where=where, hint=hint)


def code_file_of_module(module: str) -> CodeFile | None:
    """Return the code file that a module was loaded from; None if it was not loaded from one.

    A module that the user's program imported from a file `MODULE.py` counts as a code file from then on, and so do the
    files beside it that it imports, since worker processes need them, too.
    """
    if module not in CODE_FILES and (path := _path_of_module(module)):
        CODE_FILES[module] = file = read_code(path)
        _adopt_imports(file)
        CODE_FILES[module] = CODE_FILES.pop(module)  # after the files that it imports
    return CODE_FILES.get(module)


def _adopt_imports(file: CodeFile) -> None:
    """Let the files beside a file that Python has imported for it count as code files: they are in `sys.path`."""
    for module in sorted(_imported_modules(file)):
        path = _path_of_module(module)
        if path and path.parent.resolve() == file.path.parent.resolve():
            code_file_of_module(module)


def _path_of_module(module: str) -> Path | None:
    """Return the file `MODULE.py` of an imported top-level module; None for packages, and for the program itself."""
    path = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return path if path.name == f"{module}.py" and module != "__main__" else None


def with_imported_files(files: Iterable[CodeFile]) -> list[CodeFile]:
    """Return these code files and those that they import, directly or not, in the order of loading."""
    found, pending = set[str](), [file.module for file in files]
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending += _imported_modules(CODE_FILES[module]) & CODE_FILES.keys()
    return [file for module, file in CODE_FILES.items() if module in found]


def _imported_modules(file: CodeFile) -> set[str]:
    """Return the top-level names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def code_module(file: CodeFile) -> ModuleType:
    """Return the module of a code file that is loaded."""
    return sys.modules[file.module]
