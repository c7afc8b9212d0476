"""Tests of the tokenizer audit: it finds the faults behind wrong published bits-per-byte figures, and no others."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bitgolf.errors import BitgolfError
from bitgolf.report.findings import DataFinding
from bitgolf.text.documents import read_documents
from bitgolf.tokens.audit import audit_published_encoding, audit_tokenizer, refuse_errors
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer

HOSTILE = [
    "emoji 🙂👨‍👩‍👧",
    "marks e\u0301 a\u0308\u0323",
    "control \x01\x02\x7f\u200b",
    "tabs\tand\nlines",
    "nul\x00",
    "literal \u2581 mark",
    "\ue001private\ue004",
    "folded \ufb01 ½ Ａ",
]
PUBLIC = [
    "fineweb_1024_bpe",
    "fineweb_2048_bpe_no_byte_fallback",
    "fineweb_4096_bpe",
    "fineweb_8192_bpe",
    "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved",
]


@pytest.fixture(scope="session")
def english(shared: Path) -> list[bytes]:
    return [d.data for d in islice(read_documents([shared / "data" / "english.val.jsonl.zst"]), 40)]


def found(findings: list[DataFinding]) -> dict[str, str]:
    assert len({f.rule for f in findings}) == len(findings)
    return {f.rule: f.severity for f in findings}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_published_models_lose_bytes_and_one_has_unknown_characters(
    name: str, shared: Path, english: list[bytes]
) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / f"{name}.model")
    hostile = [*(text.encode() for text in HOSTILE), b"bad \xff\xfe utf8"]
    expected = {"lossy-normalisation": "warning"}
    if "no_byte_fallback" in name:
        assert found(audit_tokenizer(tokenizer, [*english, *hostile])) == {"no-byte-fallback": "error"}
        expected |= {"challenge-table": "warning"}
    else:
        assert audit_tokenizer(tokenizer, [*english, *hostile]) == []
    if "caseops" in name:  # its sidecar counts all but white space that is removed at the edges
        expected |= {"challenge-table": "warning"}
    assert found(audit_published_encoding(tokenizer, [*english, *hostile])) == expected


def test_counts_are_of_the_sample(shared: Path, english: list[bytes]) -> None:
    folder = shared / "data" / "tokenizers"
    lossy = audit_published_encoding(load_tokenizer(folder / "fineweb_1024_bpe.model"), [b"a\nb", "½ x".encode()])
    assert [f.message for f in lossy] == ["3 of 7 raw bytes are lost or changed by the tokenizer's own encoding"]
    unknown = audit_tokenizer(load_tokenizer(folder / "fineweb_2048_bpe_no_byte_fallback.model"), ["a🙂🙂 <".encode()])
    assert "3 characters of the sample's 1 documents became <unk>" in unknown[0].message


def test_a_tokenizer_trained_here_loses_nothing(tokenizer: SentencePieceTokenizer, library: list[bytes]) -> None:
    hostile = [text.encode() for text in HOSTILE if "\u2581" not in text]
    assert audit_tokenizer(tokenizer, [b"plain words", *hostile]) == []
    assert set(found(audit_published_encoding(tokenizer, [b"plain words", *hostile]))) <= {"challenge-table"}


def test_runs_of_spaces_are_what_the_challenges_table_miscounts(tokenizer: SentencePieceTokenizer) -> None:
    text = [b"if x:\n        return self"]
    assert found(audit_published_encoding(tokenizer, text)) == {"challenge-table": "warning"}
    assert audit_tokenizer(tokenizer, text) == []  # text that is encoded exactly does not use the table


def test_a_missing_space_piece_is_found_and_does_not_telescope(tokenizer: SentencePieceTokenizer) -> None:
    odd = SentencePieceTokenizer(tokenizer.serialized.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82"))
    findings = found(audit_tokenizer(odd, [b"if ( x ) :"]))
    assert findings["no-space-piece"] == findings["does-not-telescope"] == "error"


def test_a_missing_bos_is_found(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.serialized.count(b"\x0a\x03<s>") == 1
    odd = SentencePieceTokenizer(tokenizer.serialized.replace(b"\x0a\x03<s>", b"\x0a\x03<t>"))
    assert found(audit_tokenizer(odd, [b"a"])) == {"no-bos": "error"}


def test_errors_are_refused_with_what_would_help() -> None:
    space, fallback, note = (
        DataFinding("no-space-piece", "error", "no space"),
        DataFinding("no-byte-fallback", "error", "no bytes"),
        DataFinding("character-coverage", "note", "lowered"),
    )
    assert refuse_errors([note], force=False, where="here", how_to_force="--force") == [note]
    with pytest.raises(BitgolfError, match="no space") as error:
        refuse_errors([space, note], force=False, where="here", how_to_force="--force")
    assert error.value.where == "here" and error.value.hint.endswith("with --force")
    forced = refuse_errors([space, note], force=True, where="here", how_to_force="--force")
    assert forced == [DataFinding("no-space-piece", "warning", "no space (forced)"), note]
    for force in (False, True):
        with pytest.raises(BitgolfError, match="no bytes") as error:
            refuse_errors([fallback], force=force, where="here", how_to_force="--force")
        assert "--force" not in error.value.hint
