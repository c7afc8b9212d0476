"""Checkpoint files: exact round trips, detection of any damage, and removal of old files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as serialize
from safetensors.torch import save_file
from torch import Tensor

from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.training.checkpoint import load, load_latest, save
from helpers.examples import examples

TENSORS = {"w": torch.arange(12, dtype=torch.float32).view(3, 4), "n": torch.tensor(5)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 4)])
def test_every_type_survives_bit_for_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(shape) * 100).to(dtype)
    if tensor.is_floating_point() and shape == (7,):
        tensor[:4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]).to(dtype)
    save(tmp_path, 3, {"x": tensor})
    found = load_latest(tmp_path)
    assert found and same_bits(found.tensors["x"], tensor)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda n: n != "__metadata__")
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(names, st.lists(st.integers(-9, 9), max_size=5), max_size=4),
    meta=st.dictionaries(st.text(max_size=10), values, max_size=4),
    step=st.integers(0, 10**9),
)
def test_names_and_values_survive(
    tmp_path: Path, tensors: dict[str, list[int]], meta: dict[str, object], step: int
) -> None:
    made = {name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in tensors.items()}
    found = load(save(tmp_path, step, made, meta))
    assert (found.step, found.meta, found.warnings) == (step, meta, ())
    assert found.tensors.keys() == made.keys()
    assert all(same_bits(found.tensors[name], made[name]) for name in made)


def test_text_that_looks_like_the_hash_does_no_harm(tmp_path: Path) -> None:
    meta = {"sha256": "0" * 64, "text": '"sha256":"' + "0" * 64 + '"'}
    found = load(save(tmp_path, 1, {"sha256": torch.ones(2)}, meta))
    assert found.meta == meta


def test_views_and_shared_memory(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tied = {"a": base, "b": base, "c": base.T, "d": base[1:, ::2], "e": torch.nn.Parameter(base)}
    found = load(save(tmp_path, 1, tied))
    assert all(same_bits(found.tensors[name], t.detach()) for name, t in tied.items())


def test_random_state_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(5)
    save(tmp_path, 1, {"rng": torch.get_rng_state()})
    want = torch.rand(8)
    found = load_latest(tmp_path)
    assert found
    torch.set_rng_state(found.tensors["rng"])
    assert torch.equal(torch.rand(8), want)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    paths = [save(tmp_path, step, TENSORS, {"at": step}) for step in (9, 40, 99_999_999, 123_456_789)]
    assert paths[1].name == "step-00000040.safetensors"
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths[2:]}
    found = load_latest(tmp_path)
    assert found and found.step == 123_456_789 and found.meta == {"at": 123_456_789}


def test_later_steps_belong_to_a_run_that_was_given_up(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, TENSORS, {"run": "old"}, keep=3)
    save(tmp_path, 15, TENSORS, {"run": "new"})
    found = load_latest(tmp_path)
    assert found and (found.step, found.meta) == (15, {"run": "new"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010.safetensors", "step-00000015.safetensors"]


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-00000003.safetensors.x7.part"
    leftover.write_bytes(b"half")
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    assert load_latest(tmp_path) is None
    save(tmp_path, 4, TENSORS)
    assert not leftover.exists() and other.exists()


@pytest.mark.parametrize("folder", ["", "absent"])
def test_nothing_there_is_none(tmp_path: Path, folder: str) -> None:
    assert load_latest(tmp_path / folder) is None


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_seen_and_the_one_before_is_used(tmp_path: Path, data: st.DataObject) -> None:
    """After a flipped bit, truncation or appended bytes, the file is reported and the older one is loaded."""
    save(tmp_path, 1, TENSORS, {"at": 1})
    newest = save(tmp_path, 2, TENSORS, {"at": 2})
    content = bytearray(newest.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    newest.write_bytes({"cut": content[:at], "flip": content, "add": content + b"\0" * (at + 1)}[kind])
    found = load_latest(tmp_path)
    assert found and found.step == 1 and found.meta == {"at": 1}
    assert len(found.warnings) == 1 and newest.name in found.warnings[0] and "damaged" in found.warnings[0]


def test_when_none_is_whole_it_is_an_error(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, TENSORS).write_bytes(b"torn")
    with pytest.raises(CorruptFileError, match=r"step-00000002.*step-00000001"):
        load_latest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 100, json.dumps({}).encode()])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="step-00000001"):
        load(path)


def test_a_plain_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    save_file(TENSORS, path)
    with pytest.raises(CorruptFileError, match="no hash"):
        load(path)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        load(tmp_path / "step-00000002.safetensors")


@pytest.mark.parametrize("extra", [b',"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}', b',"w":7'])
def test_a_right_hash_does_not_make_a_checkpoint(tmp_path: Path, extra: bytes) -> None:
    """The hash does not prevent forgery, so a file with a valid hash must still be validated."""
    meta = b'{"__metadata__":{"format":"2","step":"1","meta":"{}","sha256":"' + b"0" * 64 + b'"}' + extra + b"}"
    content = len(meta).to_bytes(8, "little") + meta
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode()))
    with pytest.raises(CorruptFileError, match=r"step-00000001.*damaged checkpoint"):
        load(path)


@pytest.mark.parametrize("number", [b"", b'"format":"1",'])
def test_a_checkpoint_of_another_format_is_one_clear_error(tmp_path: Path, number: bytes) -> None:
    """A newer file of another format is an error: the older files do not belong to this version either."""
    save(tmp_path, 1, TENSORS)
    path = save(tmp_path, 2, TENSORS)
    content = path.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()
    older = re.sub(rb'"sha256":"[0-9a-f]{64}"', b'"sha256":"' + b"0" * 64 + b'"', header).replace(
        b'"format":"2",', number
    )
    whole = len(older).to_bytes(8, "little") + older + content[8 + int.from_bytes(content[:8], "little") :]
    path.write_bytes(whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode()))
    with pytest.raises(
        FormatVersionError, match=r"step-00000002.*checkpoint has (no format number|format 1); .* format 2"
    ):
        load_latest(tmp_path)


def test_an_error_of_our_own_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1, TENSORS)

    def broken(data: bytes) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("bitgolf.training.checkpoint.parse", broken)
    with pytest.raises(AttributeError, match="a bug"):
        load(path)


def test_an_error_keeps_its_cause(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError) as caught:
        load(tmp_path / "step-00000001.safetensors")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 1, TENSORS)
    with pytest.raises(TypeError):
        save(tmp_path, 2, TENSORS, {"bad": object()})
    found = load_latest(tmp_path)
    assert found and found.step == 1 and len(list(tmp_path.iterdir())) == 1


def test_a_file_is_what_safetensors_would_write(tmp_path: Path) -> None:
    """Header and data equal those of safetensors, except for the order of metadata keys, which is random there."""
    tensors = TENSORS | {
        "ü\"'": torch.ones(3, dtype=torch.bfloat16),
        "b": torch.ones(5, dtype=torch.bool),
        "e": torch.ones(0),
    }
    content = save(tmp_path, 7, tensors, {"x": 'é"'}).read_bytes()
    header = json.loads(content[8 : (end := 8 + int.from_bytes(content[:8], "little"))])
    theirs = serialize(tensors, header["__metadata__"])
    assert json.loads(theirs[8 : 8 + int.from_bytes(theirs[:8], "little")]) == header
    assert content[end:] == theirs[8 + int.from_bytes(theirs[:8], "little") :] and end % 8 == 0
