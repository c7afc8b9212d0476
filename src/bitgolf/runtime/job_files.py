"""Files that pass a job to worker processes, and its result back: `job.json`, `result.json`, arrays as `.npy` files.

A job is the only argument of a function in this package: a `msgspec.Struct`. Jobs and results are decoded by their
type annotations. They may hold plain values, `Path`, `Spec` (in a recipe's JSON form), NumPy arrays, structs,
NamedTuples, lists, tuples with one type of item, and None for any of them. Nothing is unpickled, and no function
outside this package is called. The user's code files that the launcher has loaded are copied to the folder, and loaded
before the job is decoded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from bitgolf.config.code_files import CODE_FILES, CodeFile, load_code_files
from bitgolf.config.parse import from_json
from bitgolf.config.requirements import requirements
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json, write_bytes, write_json

PACKAGE = "bitgolf."
JOB, RESULT, ERROR = "job.json", "result.json", "error.json"


def write_job(folder: Path, function: Callable[[Any], Any], job: Any) -> None:
    """Write a job for `read_job`. Raises `TypeError` if `function` cannot be found by its module and name."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function_named(name) is not function:
        raise TypeError(f"{name} is not a module-level function")
    encoded = _encode(folder, "job", job)  # first: it may find more code files
    write_json(folder / JOB, {"function": name, "job": encoded, "code": _write_code(folder)})


def moved_job(folder: Path, before: Path, after: str) -> dict[str, Any]:
    """Return the job in a folder for a host where the files below the folder `before` are below `after`."""
    written = read_json(folder / JOB)
    hints = get_type_hints(_job_type(function_named(written["function"])))
    for name, value in written["job"].items():
        if hints[name] is Path and Path(value).is_relative_to(before):
            written["job"][name] = str(Path(after) / Path(value).relative_to(before))
    return written


def read_job(folder: Path) -> tuple[Callable[[Any], Any], Any]:
    """Load the code files of a job, and return the function to call, and its argument."""
    written = read_json(folder / JOB)
    load_code_files([_read_code(folder, **file) for file in written.get("code", [])])
    function = function_named(written["function"])
    return function, _decode(folder, written["job"], _job_type(function))


def _job_type(function: Callable[[Any], Any]) -> Any:
    """The annotation of a function's only parameter."""
    (job_type,) = (hint for name, hint in get_type_hints(function).items() if name != "return")
    return job_type


def _write_code(folder: Path) -> list[dict[str, Any]]:
    """Copy the loaded code files to the folder, as they were when they were read."""
    rows = list[dict[str, Any]]()
    for i, file in enumerate(CODE_FILES.values()):
        write_bytes(folder / f"code.{i}.py", file.source)
        rows.append({"copy": f"code.{i}.py", "path": str(file.path), "any_digest": file.any_digest})
    return rows


def _read_code(folder: Path, *, copy: str, path: str, any_digest: bool) -> CodeFile:
    return CodeFile(Path(path), (folder / copy).read_bytes(), any_digest)


def write_result(folder: Path, result: Any) -> None:
    write_json(folder / RESULT, _encode(folder, "result", result))


def read_result(folder: Path, function: Callable[[Any], Any]) -> Any:
    """Return the result of the function, in its annotated return type."""
    return _decode(folder, read_json(folder / RESULT), get_type_hints(function)["return"])


def write_error(folder: Path, error: BitgolfError) -> None:
    write_json(folder / ERROR, error_fields(error))


def read_error(folder: Path) -> BitgolfError | None:
    """Return the error that ended the worker, with its exit status. None if it wrote no error."""
    if not (folder / ERROR).exists():
        return None
    return error_from(read_json(folder / ERROR))


def error_fields(error: BitgolfError) -> dict[str, Any]:
    """The JSON form of an error."""
    return {"message": error.message, "where": error.where, "hint": error.hint, "exit_code": error.exit_code}


def error_from(fields: Mapping[str, Any]) -> BitgolfError:
    """The error of a JSON form, with its exit status."""
    error = BitgolfError(fields["message"], where=fields["where"], hint=fields["hint"])
    error.exit_code = fields["exit_code"]
    return error


def function_named(name: str) -> Callable[[Any], Any]:
    """Return the function named `bitgolf.module:function`. Raises `TypeError` if this package has none of that name."""
    module, _, attribute = name.partition(":")
    if not module.startswith(PACKAGE) or not attribute.isidentifier():
        raise TypeError(f"{name} is not a function of this package")
    function = getattr(importlib.import_module(module), attribute, None)
    if not callable(function):
        raise TypeError(f"{name} is not a function of this package")
    return function


def _encode(folder: Path, name: str, value: Any) -> Any:
    """Return the JSON form of a value. Arrays are saved as files in `folder`, and replaced by their names."""
    arrays = count()

    def encode(item: Any) -> Any:
        if isinstance(item, Spec):
            plain = item.to_json()
            requirements(plain)  # raises for a part that a worker could not load, and finds its file
            return plain
        if isinstance(item, Path):
            return str(item)
        if isinstance(item, np.ndarray):
            file = f"{name}.{next(arrays)}.npy"
            np.save(folder / file, item, allow_pickle=False)
            return file
        if isinstance(item, msgspec.Struct):
            return encode(msgspec.structs.asdict(item))
        if isinstance(item, dict):
            return {key: encode(inner) for key, inner in item.items()}
        return [encode(inner) for inner in item] if isinstance(item, list | tuple) else item

    return encode(value)


def _decode(folder: Path, value: Any, kind: Any) -> Any:
    """The inverse of `_encode`. kind: the type annotation of the value."""
    plain, inner = get_origin(kind) or kind, get_args(kind)
    if plain is Spec:
        return from_json(value)
    if plain is Path:
        return Path(value)
    if plain is np.ndarray:
        return np.load(folder / Path(value).name, allow_pickle=False)
    if plain in (Union, UnionType):
        return None if value is None else _decode(folder, value, next(k for k in inner if k is not NoneType))
    if plain in (list, tuple):
        return plain(_decode(folder, item, inner[0]) for item in value)
    if isinstance(plain, type) and issubclass(plain, tuple):
        hints = get_type_hints(plain).values()
        return plain(*(_decode(folder, item, hint) for item, hint in zip(value, hints, strict=True)))
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        hints = get_type_hints(plain)
        return plain(**{name: _decode(folder, item, hints[name]) for name, item in value.items()})
    return msgspec.convert(value, kind)
