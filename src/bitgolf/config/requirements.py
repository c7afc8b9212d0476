"""What a recipe needs besides this package: code files of the user and plugins, named with digest or version.

Artifacts and recipe files store the list of requirements beside the names of the parts. It is compared with what is
loaded before a part is looked up. Nothing in it is a path, and nothing is loaded because it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bitgolf.config.code_files import CODE_FILES, CodeFile, code_file_of_module, with_imported_files
from bitgolf.config.plugins import plugin_of_module, plugins
from bitgolf.config.registry import REGISTRY, import_plugin, in_package, part_modules
from bitgolf.errors import CorruptFileError, RecipeError, UsageError
from bitgolf.report.display import current_display

PartName = Annotated[str, msgspec.Meta(max_length=120, pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]


class Requirement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A code file or a distribution that recipes need.

    version: of a code file, its SHA-256 as 64 hexadecimal digits; of a distribution, its version. parts: names of the
    parts that it registers and the recipe has; none for a file that another one imports.
    """

    kind: Literal["code", "distribution"]
    name: Annotated[str, msgspec.Meta(max_length=120, pattern=r"^\w[\w.-]*\Z")]
    version: Annotated[str, msgspec.Meta(max_length=120, pattern=r"^\w[\w.+!-]*\Z")]
    parts: Annotated[tuple[PartName, ...], msgspec.Meta(max_length=1000)] = ()

    def __str__(self) -> str:
        return f"{self.name} (SHA-256 {self.version})" if self.kind == "code" else f"{self.name} {self.version}"


CODE_FOLDER = "code"
"""Folder in that of a run with copies of the code files that its recipe needs. They are read only if a user names them."""


REGISTER = "decorate the class with @register of bitgolf.config.registry"


class MissingCodeError(UsageError):
    """A code file or a plugin that an artifact or a run needs, `needed`, is not loaded, or is another one."""

    def __init__(self, message: str, needed: Requirement, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


# ---- what a recipe needs -------------------------------------------------------------------------------------------


def requirements(recipe: Any) -> list[Requirement]:
    """Return what the parts in the JSON form of a recipe, or of a part of one, need besides this package.

    Raises `RecipeError` for a part whose class no other process could load.
    """
    parts = dict[tuple[Literal["code", "distribution"], str, str], list[str]]()
    files = list[CodeFile]()
    for name in foreign_parts(recipe):
        if name not in REGISTRY:
            raise RecipeError(f"the class {name} is not registered, so no file can name it", hint=REGISTER)
        file, plugin = _origin(REGISTRY[name])
        if file:
            files.append(file)
            parts.setdefault(("code", file.name, file.digest), []).append(name)
        elif plugin:
            parts.setdefault(("distribution", *plugin), []).append(name)
    for file in with_imported_files(files):
        parts.setdefault(("code", file.name, file.digest), [])
    return [Requirement(kind, name, version, tuple(names)) for (kind, name, version), names in sorted(parts.items())]


def required_code(recipe: Any) -> list[CodeFile]:
    """Return the code files that the JSON form of a recipe needs, in the order of loading."""
    digests = {needed.version for needed in requirements(recipe) if needed.kind == "code"}
    return [file for file in CODE_FILES.values() if file.digest in digests]


def foreign_parts(recipe: Any) -> list[str]:
    """Return the names in the JSON form of a recipe that are not those of parts of this package, sorted."""
    return sorted({name for name in _part_names(recipe) if not _is_of_package(name)})


def _part_names(value: Any) -> Iterator[str]:
    """Yield the name of each part in a JSON value, which may be nested deeply: it is not checked yet."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if isinstance(name := item.get("part"), str):
                yield name
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item


def _is_of_package(name: str) -> bool:
    return in_package(REGISTRY[name]) if name in REGISTRY else name in part_modules()


def _origin(cls: type) -> tuple[CodeFile | None, tuple[str, str] | None]:
    """Return the code file of a registered class, or (name, version) of its distribution."""
    plugin = None if cls.__module__ in CODE_FILES else plugin_of_module(cls.__module__)
    if plugin:
        return None, (plugin.distribution, plugin.version)
    if file := code_file_of_module(cls.__module__):
        return file, None
    raise RecipeError(
        f"the part {cls.__name__} is defined in {cls.__module__!r}, which no other process can load",
        hint="put it into a file of its own and give that with --code FILE, or install it as a plugin",
    )


# ---- what is loaded ------------------------------------------------------------------------------------------------


def encode_requirements(needed: Sequence[Requirement]) -> str:
    """Return requirements as JSON text."""
    return msgspec.json.encode(needed).decode()


def read_requirements(stored: str) -> list[Requirement]:
    """Return the requirements of their JSON text. Raises `CorruptFileError` if it is not valid."""
    try:
        return convert_requirements(msgspec.json.decode(stored))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the list of the code that it needs is not valid ({error})") from None


def convert_requirements(stored: Any) -> list[Requirement]:
    """Return the requirements of their JSON form. Raises `CorruptFileError` if it is not valid."""
    try:
        return msgspec.convert(stored, list[Requirement])
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the list of the code that it needs is not valid ({error})") from None


def check_requirements(stored: Sequence[Requirement], recipe: Any) -> None:
    """Check that what a stored recipe needs is loaded, before its parts are looked up. recipe: its JSON form.

    Raises `MissingCodeError` if a code file or a plugin is missing or is another one, and `CorruptFileError` if the
    recipe has a part that is neither of this package nor listed.
    """
    for needed in stored:
        (_check_code if needed.kind == "code" else _check_distribution)(needed)
    listed = {name for needed in stored for name in needed.parts}
    for name in foreign_parts(recipe):
        if name in REGISTRY and name not in listed:
            raise CorruptFileError(f"it does not say where its part {name} is defined")


@contextmanager
def missing_code_located(path: Path) -> Iterator[None]:
    """Let a `MissingCodeError` of the block name the file `path`, and the copy of the code file beside it, if any."""
    try:
        yield
    except MissingCodeError as error:
        error.where = error.where or str(path)
        copy, needed = path.parent / CODE_FOLDER / error.needed.name, error.needed
        if needed.kind == "code" and copy.is_file() and CodeFile(copy, copy.read_bytes()).digest == needed.version:
            error.hint = f"if you trust this folder, its copy of the file: --code {copy}"
        raise


def _check_code(needed: Requirement) -> None:
    origins = {code_file_of_module(REGISTRY[name].__module__) for name in needed.parts if name in REGISTRY}
    loaded = (origins or {CODE_FILES.get(needed.name.removesuffix(".py"))}) - {None}
    for file in loaded:
        if file and file.digest != needed.version:
            _check_other_digest(needed, file)
    if not loaded and needed.version not in {file.digest for file in CODE_FILES.values()}:
        raise MissingCodeError(
            f"{_parts_of(needed)} {needed}, which is not loaded",
            needed,
            hint=f"give the file with --code {needed.name}; no code is stored with a model, and none is loaded unasked",
        )


def _check_other_digest(needed: Requirement, file: CodeFile) -> None:
    if not file.any_digest:
        raise MissingCodeError(
            f"{_parts_of(needed)} {needed}, but {file.path} has the SHA-256 {file.digest}",
            needed,
            hint=f"give the file that it was made with; --any-code {file.path} uses this one nevertheless",
        )
    _note(f"{needed.name} has changed: SHA-256 {needed.version} is needed, {file.digest} is used (--any-code)")


def _check_distribution(needed: Requirement) -> None:
    found = [plugin for plugin in plugins() if plugin.distribution == needed.name]
    if not found:
        raise MissingCodeError(
            f"{_parts_of(needed)} {needed}, which is not installed",
            needed,
            hint=f"if you trust this distribution: pip install {needed.name}=={needed.version}",
        )
    if found[0].version != needed.version:
        _note(f"it was made with {needed}; {found[0]} is used")
    for plugin in found:
        if not REGISTRY.keys() >= set(needed.parts):
            import_plugin(plugin)


def _parts_of(needed: Requirement) -> str:
    names, more = ", ".join(needed.parts[:5]), len(needed.parts) - 5
    if not names:
        return "it needs"
    if len(needed.parts) == 1:
        return f"the part {names} is of"
    return f"the parts {names} and {more} more are of" if more > 0 else f"the parts {names} are of"


_NOTES = set[str]()


def _note(text: str) -> None:
    """Show a note, once in a process."""
    if text not in _NOTES:
        _NOTES.add(text)
        current_display().message(f"note: {text}")
