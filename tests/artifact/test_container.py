"""Streams, container and ledger: round trips, determinism, and sums that equal the file size."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.artifact.container import artifact_bytes, read_artifact, write_artifact
from bitgolf.artifact.ledger import LedgerEntry, ledger, over_cap_advice
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, RecipeError
from bitgolf.pack import parallel
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import EncodedTensor, Layout, Section, pack_blob, pack_tensors, unpack_blob, unpack_tensors
from helpers.examples import examples

RECIPE: dict[str, Any] = {
    "part": "Recipe",
    "name": "tiny",
    "ratio": 0.1,
    "layers": [1, 2.0, None, True, "ü"],
}
META: dict[str, Any] = {"bitgolf": "0.1.0", "tokenizer": "3f2a"}
GROUPS = {
    "embed": "embedding",
    "b.0.q": "matrix",
    "b.10.q": "matrix",
    "b.2.q": "matrix",
    "gain": "scale",
    "bias": "scale",
}


def model_codes() -> dict[str, EncodedTensor]:
    generator = np.random.default_rng(0)

    def rows(r: int, c: int) -> EncodedTensor:
        codes = np.clip(np.round(generator.standard_normal((r, c)) * 3), -31, 31).astype(np.int8)
        return {"codes": codes, "scales": generator.gamma(9, 0.01, r).astype(np.float16)}

    return {
        "embed": rows(64, 16),
        "b.0.q": rows(16, 16),
        "b.10.q": rows(16, 8),
        "b.2.q": rows(32, 16),
        "gain": {"values": generator.standard_normal(16).astype(np.float16)},
        "bias": {"values": generator.standard_normal((2, 3)).astype(np.float32)},
    }


def layout_of(codes: dict[str, EncodedTensor]) -> Layout:
    return {path: {name: (a.dtype, a.shape) for name, a in code.items()} for path, code in codes.items()}


def equal(a: dict[str, EncodedTensor], b: dict[str, EncodedTensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[p].keys() == b[p].keys()
        and all(
            x.dtype == b[p][n].dtype and x.shape == b[p][n].shape and x.tobytes() == b[p][n].tobytes()
            for n, x in a[p].items()
        )
        for p in a
    )


SMALLEST: Spec[Coder] = part(SmallestCoder, coders=(part(RangeCoder), part(Zlib), part(Raw)))
MIXED = (
    part(Rule, where="matrix@*.codes", use=part(RangeCoder)),
    part(Rule, where="@*.scales", use=part(Brotli, quality=5)),
    part(Rule, where="*", use=part(LZMA)),
)

# ---- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", [SMALLEST, MIXED, part(Raw)], ids=["smallest", "rules", "raw"])
def test_codes_are_packed_by_group_and_come_back(coder: Any) -> None:
    codes = model_codes()
    sections = {s.name: s for s in pack_tensors(codes, GROUPS, coder)}
    assert sorted(sections) == [
        "embedding.codes", "embedding.scales", "matrix.codes", "matrix.scales", "scale.values.float16", "scale.values.float32",
    ]  # fmt: skip
    assert sections["matrix.codes"].elements == 16 * 16 + 16 * 8 + 32 * 16
    assert sections["matrix.scales"].raw_bytes == 2 * (16 + 16 + 32)
    back = unpack_tensors(sections, layout_of(codes), GROUPS, coder)
    assert equal(back, codes) and list(back) == list(codes)


@pytest.mark.parametrize("coder", [SMALLEST, part(RangeCoder, variance_contexts=True)], ids=repr)
def test_bytes_do_not_depend_on_the_workers(coder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(parallel, "cpu_count", lambda workers=workers: workers)
        found.append([section.data for section in pack_tensors(model_codes(), GROUPS, coder)])
    assert found[0] == found[1] == found[2]


def test_the_first_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cpu_count", lambda: 3)

    def work(item: int) -> int:
        if item > 1:
            raise CorruptFileError(f"no {item}")
        return item

    with pytest.raises(CorruptFileError, match="no 2"):
        parallel.parallel_map(work, range(5))
    assert parallel.parallel_map(work, range(2)) == [0, 1]


def test_the_order_of_dictionaries_does_not_matter() -> None:
    codes = model_codes()
    backwards = dict(reversed(codes.items()))
    sections = pack_tensors(codes, GROUPS, SMALLEST)
    assert {s.name: s for s in pack_tensors(backwards, GROUPS, SMALLEST)} == {s.name: s for s in sections}
    assert equal(unpack_tensors({s.name: s for s in sections}, layout_of(backwards), GROUPS, SMALLEST), codes)


def test_rules_choose_the_coder_of_each_stream_and_must_act() -> None:
    codecs = {s.name: s.codec for s in pack_tensors(model_codes(), GROUPS, MIXED)}
    assert codecs["matrix.codes"] == "range" and codecs["embedding.codes"] == "lzma"
    assert codecs["matrix.scales"] == codecs["embedding.scales"] == "brotli"
    with pytest.raises(RecipeError, match="matches no parameter"):
        pack_tensors(model_codes(), GROUPS, (part(Rule, where="gate", use=part(Raw)), *MIXED))
    with pytest.raises(RecipeError, match="not a coder"):
        pack_tensors(model_codes(), GROUPS, (part(Rule, where="*", use=part(Rule, where="*", use=part(Raw))),))  # pyright: ignore[reportArgumentType]


def test_sections_that_do_not_fit_the_layout_are_damage() -> None:
    codes = model_codes()
    sections = {s.name: s for s in pack_tensors(codes, GROUPS, part(Raw))}
    one = sections["matrix.codes"]
    wrong: list[dict[str, Section]] = [
        {n: s for n, s in sections.items() if n != "matrix.codes"},
        {**sections, "more": one},
        {**sections, "matrix.codes": Section(one.name, one.codec, one.data[:-1], one.raw_bytes - 1, one.elements - 1)},
        {**sections, "matrix.codes": Section(one.name, one.codec, one.data[:-1], one.raw_bytes, one.elements)},
        {**sections, "matrix.codes": Section(one.name, "zlib", one.data, one.raw_bytes, one.elements)},
    ]
    for damaged in wrong:
        with pytest.raises(CorruptFileError):
            unpack_tensors(damaged, layout_of(codes), GROUPS, part(Raw))


@given(data=st.binary(max_size=300))
def test_blobs_come_back(data: bytes) -> None:
    section = pack_blob("tokenizer", data, SMALLEST)
    assert unpack_blob(section, SMALLEST) == data and section.elements == len(data)


# ---- container -----------------------------------------------------------------------------------------------------


def test_an_artifact_comes_back_from_disk(tmp_path: Path) -> None:
    sections = [*pack_tensors(model_codes(), GROUPS, SMALLEST), pack_blob("tokenizer", b"tok" * 50, part(Zlib))]
    file = tmp_path / "artifact.bg"
    written = write_artifact(file, recipe=RECIPE, meta=META, sections=sections)
    artifact = read_artifact(file)
    assert artifact == written == read_artifact(file.read_bytes())
    assert artifact.recipe == RECIPE and artifact.meta == META and list(artifact.sections.values()) == sections
    assert artifact.bytes == file.stat().st_size
    del artifact.sections["tokenizer"]
    assert equal(unpack_tensors(artifact.sections, layout_of(model_codes()), GROUPS, SMALLEST), model_codes())


def test_the_same_content_is_the_same_bytes() -> None:
    sections = pack_tensors(model_codes(), GROUPS, SMALLEST)
    data = artifact_bytes(recipe=RECIPE, meta=META, sections=sections)
    backwards = {"recipe": dict(reversed(RECIPE.items())), "meta": dict(reversed(META.items()))}
    assert artifact_bytes(**backwards, sections=sections) == data


def test_the_frame_is_as_documented() -> None:
    data = artifact_bytes(recipe={}, meta={}, sections=[Section("a.b", "raw", b"xyz", 3, 3)])
    assert data[:6] == b"BGLF\x02\x00" and data.endswith(b"xyz")
    assert struct.unpack("<I", data[6:10])[0] == len(data) - 14 - 3 < 80


@pytest.mark.parametrize("version", [0, 1, 3, 0xFFFF])
def test_a_file_of_another_format_says_both_numbers_and_what_to_do(tmp_path: Path, version: int) -> None:
    data = artifact_bytes(recipe={}, meta={}, sections=[])
    file = tmp_path / "old.bg"
    file.write_bytes(data[:4] + struct.pack("<H", version) + b"another header, whatever its layout")
    with pytest.raises(FormatVersionError, match=f"format {version}; this version reads format 2") as caught:
        read_artifact(file)
    assert caught.value.where == str(file) and "the version that wrote it" in caught.value.hint


@settings(max_examples=examples(100), deadline=None)
@given(
    recipe=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
            max_leaves=12,
        ),
        max_size=5,
    )
)
def test_any_json_recipe_survives(recipe: dict[str, Any]) -> None:
    assert read_artifact(artifact_bytes(recipe=recipe, meta={}, sections=[])).recipe == recipe


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


SECTION = Section("a", "raw", b"xyz", 3, 3)


UNWRITABLE: dict[str, tuple[Any, Any, Any]] = {
    "nan": ({"x": float("nan")}, {}, []),
    "tuple": ({"x": (1, 2)}, {}, []),
    "object": ({"x": object()}, {}, []),
    "deep": ({"x": nested(100_000)}, {}, []),
    "key": ({1: 2}, {}, []),
    "surrogate": ({"x": "\ud800"}, {}, []),
    "meta": ({}, {"x": [1]}, []),
    "twice": ({}, {}, [SECTION, SECTION]),
    "name": ({}, {}, [Section("a b", "raw", b"xyz", 3, 3)]),
    "contradiction": ({}, {}, [Section("a", "raw", b"xyz", 5, 3)]),
    "size": ({}, {}, [Section("a", "raw", b"xyz", 1 << 31, 1 << 31)]),
    "negative": ({}, {}, [Section("a", "raw", b"xyz", -3, -3)]),
    "header": ({"x": "a" * (1 << 20)}, {}, []),
}


@pytest.mark.parametrize("why", UNWRITABLE)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, why: str) -> None:
    recipe, meta, sections = UNWRITABLE[why]
    with pytest.raises(BitgolfError):
        write_artifact(tmp_path / "a.bg", recipe=recipe, meta=meta, sections=sections)
    assert not list(tmp_path.iterdir())


def test_missing_files_folders_and_large_files_are_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.bg"):
        with pytest.raises(CorruptFileError, match=path.name):
            read_artifact(path)
    file = tmp_path / "a.bg"
    size = write_artifact(file, recipe={}, meta={}, sections=[SECTION]).bytes
    assert read_artifact(file, limit=size)
    with pytest.raises(CorruptFileError, match="limit"):
        read_artifact(file, limit=size - 1)
    write_artifact(file, recipe={}, meta={}, sections=[Section("a", "zlib", b"", 400, 400)])
    with pytest.raises(CorruptFileError, match="more than 399"):
        read_artifact(file, limit=399)


# ---- ledger --------------------------------------------------------------------------------------------------------


def test_the_ledger_sums_to_the_file(tmp_path: Path) -> None:
    sections = [*pack_tensors(model_codes(), GROUPS, SMALLEST), pack_blob("tokenizer", b"tok" * 50, part(Zlib))]
    artifact = write_artifact(tmp_path / "a.bg", recipe=RECIPE, meta=META, sections=sections)
    entries = ledger(artifact)
    assert sum(e.bytes for e in entries) == (tmp_path / "a.bg").stat().st_size
    assert [e.name for e in entries] == ["frame", "header", *(s.name for s in sections)]
    matrix = next(e for e in entries if e.name == "matrix.codes")
    assert matrix.bits_per_element == 8 * matrix.bytes / 896 and 224 < matrix.bytes < 560
    assert matrix.coder == "range" and matrix.elements == 896


ENTRIES = [
    LedgerEntry("frame", 14, 0, None, "raw"),
    LedgerEntry("small", 100, 100, 8.0, "raw"),
    LedgerEntry("large", 1000, 2000, 4.0, "range"),
    LedgerEntry("middle", 500, 1000, 4.0, "range"),
]


def test_advice_says_how_far_each_entry_has_to_come_down() -> None:
    assert over_cap_advice(ENTRIES, 1614) == []
    advice = over_cap_advice(ENTRIES, 1414)
    assert [(a.name, a.bytes_wanted, a.bits_wanted, a.alone) for a in advice] == [
        ("large", 800, 3.2, True),
        ("middle", 300, 2.4, True),
    ]


@given(cap=st.integers(0, 1613))
def test_following_the_advice_fits_the_cap(cap: int) -> None:
    total = sum(e.bytes for e in ENTRIES)
    advice = over_cap_advice(ENTRIES, cap)
    assert advice
    if advice[0].alone:
        assert all(total - a.bytes + a.bytes_wanted == cap for a in advice)
    else:
        fixed = total - sum(a.bytes for a in advice)
        assert fixed + sum(a.bytes_wanted for a in advice) <= max(cap, fixed)
