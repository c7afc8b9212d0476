"""Atomic writes, JSON with its own digest, and what killed writers leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.files import atomic_write, read_checked_json, with_digest, write_bytes, write_checked_json

VALUES = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "digest"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5), st.lists
    ),
    max_size=4,
)
KILLED = """
import os, signal, sys
from pathlib import Path
from bitgolf.files import atomic_write
with atomic_write(Path(sys.argv[1])) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix == ".part"]


def test_the_part_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.json")], check=False)
    assert len(parts(tmp_path)) == 1 and not (tmp_path / "a.json").exists()
    write_bytes(tmp_path / "b.json", b"another file")
    assert len(parts(tmp_path)) == 1
    write_bytes(tmp_path / "a.json", b"whole")
    assert not parts(tmp_path) and (tmp_path / "a.json").read_bytes() == b"whole"


def test_the_part_of_a_living_writer_is_kept(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as first:
        first.write(b"first")
        write_bytes(tmp_path / "a", b"second")
        assert len(parts(tmp_path)) == 1
    assert (tmp_path / "a").read_bytes() == b"first"


def test_the_part_of_another_host_is_removed_when_it_is_old(tmp_path: Path) -> None:
    part = tmp_path / ".a.00000000-1.x.part"
    part.write_bytes(b"")
    write_bytes(tmp_path / "a", b"1")
    assert part.exists()
    os.utime(part, (0, 0))
    write_bytes(tmp_path / "a", b"2")
    assert not part.exists()


@given(VALUES)
def test_an_object_with_its_digest_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_checked_json(path, value)
    assert read_checked_json(path) == json.loads(json.dumps(value))


@given(st.data())
def test_every_flipped_bit_of_a_value_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path, value = tmp_path_factory.mktemp("json") / "a.json", {"seed": 5, "text": ["a", "b"], "shards": None}
    write_checked_json(path, value)
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(changed))
    try:
        found = read_checked_json(path)
    except CorruptFileError:
        return
    assert {key: found.get(key) for key in value} == value, "only white space or the name of the digest has changed"


def test_an_object_without_digest_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_checked_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text(json.dumps({**with_digest({"a": 1}), "a": 2}))
    with pytest.raises(CorruptFileError, match="has changed since it was written"):
        read_checked_json(tmp_path / "a.json")
