"""Tests of the tokenizer audit: it finds the faults behind wrong published bits-per-byte figures, and no others."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bitgolf.report.findings import DataFinding
from bitgolf.text.documents import read_documents
from bitgolf.tokens.audit import audit_tokenizer
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
    return [d.data for d in islice(read_documents([shared / "data" / "english.val.jsonl.zst"]), 120)]


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
        expected |= {"no-byte-fallback": "error", "challenge-table": "warning"}
    assert found(audit_tokenizer(tokenizer, [*english, *hostile])) == expected


def test_counts_are_of_the_sample(shared: Path, english: list[bytes]) -> None:
    folder = shared / "data" / "tokenizers"
    lossy = audit_tokenizer(load_tokenizer(folder / "fineweb_1024_bpe.model"), [b"a\nb", "½ x".encode()])
    assert [f.message for f in lossy] == ["3 of 7 raw bytes are lost or changed by SentencePiece's own encoding"]
    unknown = audit_tokenizer(load_tokenizer(folder / "fineweb_2048_bpe_no_byte_fallback.model"), ["a🙂🙂 <".encode()])
    assert "3 characters of the sample's 1 documents became <unk>" in unknown[0].message


def test_a_tokenizer_trained_here_loses_nothing(tokenizer: SentencePieceTokenizer, library: list[bytes]) -> None:
    hostile = [text.encode() for text in HOSTILE if "\u2581" not in text]
    assert set(found(audit_tokenizer(tokenizer, [b"plain words", *hostile]))) <= {"challenge-table"}


def test_runs_of_spaces_are_what_the_challenges_table_miscounts(tokenizer: SentencePieceTokenizer) -> None:
    finding = audit_tokenizer(tokenizer, [b"if x:\n        return self"])
    assert found(finding) == {"challenge-table": "warning"}


def test_a_missing_space_piece_is_found_and_does_not_telescope(tokenizer: SentencePieceTokenizer) -> None:
    odd = SentencePieceTokenizer(tokenizer.serialized.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82"))
    findings = found(audit_tokenizer(odd, [b"if ( x ) :"]))
    assert findings["no-space-piece"] == findings["does-not-telescope"] == "error"


def test_a_missing_bos_is_found(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.serialized.count(b"\x0a\x03<s>") == 1
    odd = SentencePieceTokenizer(tokenizer.serialized.replace(b"\x0a\x03<s>", b"\x0a\x03<t>"))
    assert found(audit_tokenizer(odd, [b"a"])) == {"no-bos": "error"}
