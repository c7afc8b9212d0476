"""Functions compiled by numba. Their machine code is kept in a folder of the user, and later processes load it.

Numba's own cache (`cache=True`) is not used: it does not notice that a constant of another module has changed, and two
processes that add signatures to one of its index files at the same time can exchange the code of the two. Here each
pair of function and signature has a file of its own, in a folder named after all that the code depends on.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba.core.compiler import CompileResult
from numba.core.extending import _Intrinsic as Intrinsic
from numba.core.serialize import dumps

from bitgolf.files import digest, write_bytes
from bitgolf.runtime.cache_files import cache_folder

DIGEST_BYTES = hashlib.sha256().digest_size
OPTIONS: dict[str, Any] = {"nogil": True, "cache": False, "fastmath": False, "error_model": "numpy"}
"""Options of numba: IEEE arithmetic, also for a division by zero, whose check would prevent vectorization."""


def compile_functions(*functions: Any) -> tuple[Any, ...]:
    """Return the functions compiled by numba, without the GIL and with IEEE arithmetic.

    functions: plain functions. Each may call those before it by name; its compiled version then calls theirs. A function
    is compiled for the types of its arguments at the first call, in about two seconds, or loaded from the user's folder
    in a few milliseconds. The functions themselves stay as they are.
    """
    folder, jit, made = _code_folder(functions), numba.njit(**OPTIONS), dict[str, Any]()
    for function in functions:
        namespace = function.__globals__ | made
        compiled: Any = jit(FunctionType(function.__code__, namespace, function.__name__, function.__defaults__))
        if folder is not None:
            compiled._cache = MachineCodeFiles(folder, function.__name__)
        made[function.__name__] = compiled
    return tuple(made.values())


class MachineCodeFiles:
    """The compiled versions of one function. numba asks for one before it compiles, and offers what it compiled.

    It takes the place of numba's `FunctionCache`, with the methods that compilation calls.
    A file holds the SHA-256 of the rest, and the pickled `CompileResult`. It is unpickled only if the folder belongs to
    the user and nobody else may write to it. Where a file cannot be read or written, the function is compiled as if
    there were no files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    @property
    def cache_path(self) -> str:
        return str(self.folder)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the compiled function for a signature and this processor, None if there is none."""
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes() if _is_private(self.folder) else b""
        except OSError:
            return None
        stored, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if not code or hashlib.sha256(code).digest() != stored:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(code))

    def save_overload(self, sig: Any, cres: CompileResult) -> None:
        """Keep a compiled function. Code that contains addresses of this process is not kept."""
        if cres.library.has_dynamic_globals:
            return
        code = dumps(cres._reduce())
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_bytes(self._path(sig, cres.library.codegen), hashlib.sha256(code).digest() + code)
        except OSError:
            return

    def _path(self, sig: Any, codegen: Any) -> Path:
        """The file of a signature. `magic_tuple` names the processor and its features."""
        return self.folder / f"{self.name}-{digest(repr((sig, codegen.magic_tuple())).encode())}.nbc"


def _code_folder(functions: Sequence[Callable[..., Any]]) -> Path | None:
    """The folder of these functions' files, named after the last one's module and a digest of what their code depends on.

    That is the source of their modules and of those of intrinsics, constants from other modules, the versions of numba and Python, numba's
    settings, and the options of compilation.
    """
    root = cache_folder()
    if root is None:
        return None
    names = sorted({(name, function.__module__) for function in functions for name in function.__code__.co_names})
    constants = [(name, sys.modules[module].__dict__.get(name)) for name, module in names]
    plain = [(name, value) for name, value in constants if isinstance(value, bool | int | float | str | tuple)]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    intrinsics = [value._defn for _, value in constants if isinstance(value, Intrinsic)]
    sources = list(dict.fromkeys(Path(function.__code__.co_filename) for function in (*intrinsics, *functions)))
    texts = [source.read_text(encoding="utf-8") for source in sources]
    depends_on = texts, plain, numba.__version__, sys.version, settings, OPTIONS
    return root / "machine_code" / f"{sources[-1].stem}-{digest(repr(depends_on).encode())}"


def _is_private(folder: Path) -> bool:
    """Whether the folder belongs to this user, and only this user may write to it."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
