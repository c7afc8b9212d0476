"""Recipes and artifacts that want code to be executed: a name, a path or a list of requirements never loads anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.artifact.container import artifact_bytes, read_artifact
from bitgolf.artifact.model import REQUIRES, STORED_FIELDS, load_model, stored_recipe
from bitgolf.config.code_files import CODE_FILES, load_code
from bitgolf.config.recipe_file import read_recipe
from bitgolf.config.requirements import (
    MissingCodeError,
    Requirement,
    check_requirements,
    encode_requirements,
    read_requirements,
    requirements,
)
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.recipes import get_recipe
from helpers.own_code import OWN_PARTS, own_code_removed, write_code

__all__ = ["own_code_removed"]

TRAP = "raise SystemExit('executed')\n"
NAMES = ["os.system", "my_parts", "my_parts.CubedReLU", "my_parts:CubedReLU", "./my_parts.py", "__main__", "code"]


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has a module `my_parts` that must not be executed, and it is on the search path."""
    write_code(tmp_path, "my_parts.py", TRAP)
    write_code(tmp_path / "code", "my_parts.py", TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def recipe_with(name: str, **more: Any) -> dict[str, Any]:
    plain = get_recipe("quickstart").to_json()
    plain["model"]["block"]["mlp"]["act"] = {"part": name}
    return {**plain, **more}


def artifact_with(name: str, meta: dict[str, Any]) -> bytes:
    fields = {key: value for key, value in recipe_with(name).items() if key in STORED_FIELDS}
    return artifact_bytes(recipe=fields, meta={"vocab": 2048, **meta}, sections=[])


def claimed(**changes: Any) -> list[Any]:
    return [{"kind": "code", "name": "my_parts.py", "version": "ab" * 32, "parts": ["CubedReLU"], **changes}]


def as_rows(claims: list[Any]) -> list[Any]:
    return [list(claim.values()) if isinstance(claim, dict) else claim for claim in claims]


CLAIMS: dict[str, list[Any]] = {
    "a file": claimed(),
    "a path": claimed(name="./code/my_parts.py"),
    "an absolute path": claimed(name="/tmp/my_parts.py"),
    "a module": claimed(kind="module", name="my_parts"),
    "a distribution": claimed(kind="distribution", name="my_parts"),
    "a distribution with an option of pip": claimed(kind="distribution", name="--index-url=x"),
    "a line break": claimed(name="my_parts.py\n--code x.py"),
    "a part with a module": claimed(parts=["os.system"]),
    "more fields": [["code", "my_parts.py", "ab" * 32, ["CubedReLU"], "./my_parts.py"]],
    "nothing": [],
    "numbers": [1, 2],
    "nested": [[[[[]]]]],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_part_with_the_name_of_a_module_or_file_loads_nothing(name: str) -> None:
    Path("recipe.json").write_text(json.dumps(recipe_with(name)))
    for read in (lambda: read_recipe(Path("recipe.json")), lambda: load_model(artifact_with(name, {}))):
        with pytest.raises(BitgolfError, match=r"is not the name of a part|no part called|older format"):
            read()
    assert not CODE_FILES and "my_parts" not in sys.modules


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_file_claims_to_need_is_not_loaded(name: str) -> None:
    claims = as_rows(CLAIMS[name])
    Path("recipe.json").write_text(json.dumps(recipe_with("CubedReLU", requires=claims)))
    artifact = artifact_with("CubedReLU", {REQUIRES: json.dumps(claims)})
    for read in (lambda: read_recipe(Path("recipe.json")), lambda: load_model(artifact)):
        with pytest.raises(BitgolfError) as error:
            read()
        assert "\n" not in error.value.message and "--index-url" not in error.value.hint
    assert not CODE_FILES and "my_parts" not in sys.modules


@pytest.mark.parametrize("value", [3, None, "", "{", "[1]", "[[", '"x"', "[" * 100_000])
def test_a_list_that_is_none_is_a_damaged_artifact(value: Any) -> None:
    with pytest.raises(CorruptFileError, match="list of the code"):
        load_model(artifact_with("CubedReLU", {REQUIRES: value}))


def test_a_part_that_is_loaded_must_be_listed(tmp_path: Path) -> None:
    """Otherwise an artifact could be read with any file that has a part of this name."""
    load_code([write_code(tmp_path / "own", "my_own.py", OWN_PARTS)])
    with pytest.raises(CorruptFileError, match="does not say where its part CubedReLU is defined"):
        load_model(artifact_with("CubedReLU", {}))
    listed = encode_requirements(requirements({"part": "CubedReLU"}))
    assert stored_recipe(read_artifact(artifact_with("CubedReLU", {REQUIRES: listed})))


def test_a_file_with_other_parts_of_the_listed_digest_does_not_do(tmp_path: Path) -> None:
    load_code([write_code(tmp_path / "own", "my_own.py", OWN_PARTS), write_code(tmp_path / "own", "my_empty.py", "")])
    empty = CODE_FILES["my_empty"].digest
    with pytest.raises(MissingCodeError, match="has the SHA-256"):
        check_requirements([Requirement("code", "my_empty.py", empty, ("CubedReLU",))], {"part": "CubedReLU"})


words = st.text(max_size=12)
rows = st.builds(Requirement, st.sampled_from(["code", "distribution"]), words, words, st.lists(words).map(tuple))


@given(st.lists(rows, max_size=4))
def test_any_list_is_read_as_it_was_or_refused(listed: list[Requirement]) -> None:
    try:
        assert read_requirements(encode_requirements(listed)) == listed
    except CorruptFileError:
        return
    for needed in listed:
        assert not set(needed.name + needed.version) & set("/\\\n'\" ;|&$") and not needed.name.startswith("-")


@given(
    st.recursive(st.none() | st.integers() | words, lambda v: st.lists(v) | st.dictionaries(words, v), max_leaves=12)
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        found = read_requirements(json.dumps(value))
    except CorruptFileError:
        return
    assert msgspec.to_builtins(found) == value


def test_a_long_list_of_parts_is_not_printed() -> None:
    parts = tuple(f"Part{i}" for i in range(1000))
    with pytest.raises(MissingCodeError, match="Part0, Part1, Part2, Part3, Part4 and 995 more are of") as error:
        check_requirements([Requirement("code", "my_parts.py", "ab" * 32, parts)], {"part": "Part0"})
    assert len(str(error.value)) < 500
