"""Machine code of numba functions is loaded by later compilations, unless something that it depends on has changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgolf.runtime.cache_files import cache_folder
from bitgolf.runtime.machine_code import compile_functions

FACTOR = 3
VALUES = np.array([1, 4], np.int64)
SUM = 3 * (1 + 4)


def scaled(value: int) -> int:
    return FACTOR * value


def scaled_sum(values: Any) -> int:
    total = 0
    for value in values:
        total += scaled(value)
    return total


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def files(home: Path) -> list[Path]:
    return sorted(home.rglob("*.nbc"))


def compiled_sum() -> Any:
    return compile_functions(scaled, scaled_sum)[1]


def loaded_and_compiled(function: Any) -> tuple[int, int]:
    """How many versions of a function were loaded from files, and how many were compiled."""
    return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())


def test_code_is_compiled_once_and_loaded_later(home: Path) -> None:
    first = compiled_sum()
    assert first(VALUES) == SUM and loaded_and_compiled(first) == (0, 1)
    assert sorted(path.name.split("-")[0] for path in files(home)) == ["scaled", "scaled_sum"]
    later = compiled_sum()
    assert later(VALUES) == SUM and loaded_and_compiled(later) == (1, 0)


def test_every_signature_has_its_own_file(home: Path) -> None:
    compiled_sum()(VALUES)
    integers = files(home)
    assert compiled_sum()(VALUES / 2) == SUM / 2
    assert len(files(home)) == len(integers) + 2 and compiled_sum()(VALUES) == SUM


def test_another_constant_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FACTOR` is in the code of `scaled`, and through it in that of `scaled_sum`."""
    assert compiled_sum()(VALUES) == SUM
    monkeypatch.setitem(globals(), "FACTOR", 5)
    changed = compiled_sum()
    assert changed(VALUES) == 5 * 5 and loaded_and_compiled(changed) == (0, 1)


@pytest.mark.parametrize("setting", ["NUMBA_OPT", "source"])
def test_another_source_or_setting_is_another_folder(
    home: Path, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_sum()(VALUES)
    if setting == "source":
        other = tmp_path / f"{Path(__file__).stem}.py"
        other.write_text(Path(__file__).read_text() + "\n")
        code = scaled.__code__.replace(co_filename=str(other))
        monkeypatch.setattr(scaled, "__code__", code)
    else:
        monkeypatch.setenv(setting, "2")
    changed = compiled_sum()
    assert changed(VALUES) == SUM and loaded_and_compiled(changed) == (0, 1)
    assert len({path.parent for path in files(home)}) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:40] + b"?" + data[41:], lambda data: b""]
)
def test_a_damaged_file_is_replaced(home: Path, damage: Any) -> None:
    compiled_sum()(VALUES)
    sound = {path: path.read_bytes() for path in files(home)}
    for path, data in sound.items():
        path.write_bytes(damage(data))
    assert compiled_sum()(VALUES) == SUM
    assert all(path.read_bytes() != damage(data) for path, data in sound.items())
    later = compiled_sum()
    assert later(VALUES) == SUM and loaded_and_compiled(later) == (1, 0)


def test_a_folder_that_others_may_write_to_is_not_trusted(home: Path) -> None:
    compiled_sum()(VALUES)
    (folder,) = {path.parent for path in files(home)}
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    later = compiled_sum()
    assert later(VALUES) == SUM and loaded_and_compiled(later) == (0, 1)


def test_without_a_writable_folder_it_is_compiled_in_every_process(home: Path) -> None:
    home.write_text("a file where the folder would be")
    for _ in range(2):
        function = compiled_sum()
        assert function(VALUES) == SUM and loaded_and_compiled(function) == (0, 1)


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    assert cache_folder() == home / "bitgolf"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "bitgolf"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None and compiled_sum()(VALUES) == SUM


def test_functions_stay_plain() -> None:
    before = scaled_sum.__globals__["scaled"]
    assert compiled_sum()(VALUES) == scaled_sum(VALUES) == SUM
    assert scaled_sum.__globals__["scaled"] is before is sys.modules[__name__].__dict__["scaled"]
