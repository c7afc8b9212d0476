"""Tests of tiktoken files: their patterns, ranks, and serialized form."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.data.prepare import prepare_data
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.text.documents import Document
from bitgolf.tokens.huggingface_tokenizer import HuggingFaceTokenizer
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.tiktoken_tokenizer import MAGIC, PATTERNS, TiktokenTokenizer, serialize_tiktoken
from bitgolf.tokens.trainers import TokenizerFile
from helpers.examples import examples

TEXTS = [
    "It's John's, they'LL SAY: 12345 + 67é\n\n  \t don't\r\n",
    "日本語 Ünïcode İstanbul \u200b\u0301x///\n\n  trailing   ",
]


def line(piece: bytes, rank: int) -> bytes:
    return base64.b64encode(piece) + b" %d\n" % rank


def file_of(count: int) -> bytes:
    """A file of `count` tokens: the bytes, and pairs and triples of them."""
    triples = (bytes([a, b, c]) for a in range(256) for b in range(256) for c in range(256))
    pieces = [bytes([byte]) for byte in range(256)]
    return b"".join(line(p, i) for i, p in enumerate([*pieces, *(next(triples) for _ in range(count - 256))]))


def test_the_same_merges_give_the_same_tokens(
    tiktoken_file: bytes, huggingface_json: dict[str, Any], library: list[bytes]
) -> None:
    """The pattern of GPT-2 is the one that `tokenizers` applies; there <|endoftext|> is the first token, here the last."""
    tokenizer = TiktokenTokenizer(serialize_tiktoken(tiktoken_file, "gpt2"))
    other = HuggingFaceTokenizer(json.dumps(huggingface_json).encode())
    assert (tokenizer.vocab, tokenizer.bos, tokenizer.lossless) == (400, 399, True)
    assert tokenizer.is_boundary.sum() == 1 and tokenizer.piece_strings[-1] == "<|endoftext|>"
    for data in library[:8]:
        assert (tokenizer.encode(data) + 1).tolist() == other.encode(data).tolist()


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_loses_text(name: str, tiktoken_file: bytes) -> None:
    package = pytest.importorskip("tiktoken")
    tokenizer = TiktokenTokenizer(serialize_tiktoken(tiktoken_file, name))
    ranks = {piece: i for i, piece in enumerate(tokenizer.piece_bytes[:-1])}
    own = package.Encoding("x", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS:
        assert tokenizer.encode(text.encode()).tolist() == own.encode(text)


def test_text_that_a_pattern_leaves_out_becomes_byte_tokens(tiktoken_file: bytes) -> None:
    tokenizer = TiktokenTokenizer(serialize_tiktoken(tiktoken_file, "[a-z]+"))
    assert tokenizer.decode(tokenizer.encode(b"self 12")) == b"self 12"
    assert len(tokenizer.encode(b"self")) < 4


def test_the_name_of_the_special_token_in_a_text_is_text(tiktoken_file: bytes) -> None:
    tokenizer = TiktokenTokenizer(serialize_tiktoken(tiktoken_file, "gpt2"))
    ids = tokenizer.encode(b"<|endoftext|>")
    assert tokenizer.bos not in ids.tolist() and tokenizer.decode(ids) == b"<|endoftext|>"


def test_the_pattern_is_known_by_the_number_of_tokens_or_named(tiktoken_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tiktoken"
    path.write_bytes(file_of(50_256))
    opened = load_tokenizer(path)
    assert opened.serialized.startswith(MAGIC + json.dumps({"pattern": PATTERNS["gpt2"]}).encode())
    assert (opened.vocab, opened.bos) == (50_257, 50_256)
    path.write_bytes(tiktoken_file)
    with pytest.raises(UsageError, match="399 tokens") as error:
        load_tokenizer(path)
    assert error.value.where == str(path) and "--pattern" in error.value.hint
    named = load_tokenizer(path, pattern="cl100k_base")
    assert named.digest != load_tokenizer(path, pattern="gpt2").digest
    assert tokenizer_from_bytes(named.serialized).digest == named.digest
    recipe = part(TokenizerFile, path=str(path), vocab=400, pattern="cl100k_base")
    assert recipe().train([]) == named.serialized


def test_a_pattern_belongs_to_a_tiktoken_file(tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(b"bitgolf bytes\n")
    with pytest.raises(UsageError, match="only a tiktoken file"):
        load_tokenizer(path, pattern="gpt2")


def test_the_unused_id_within_the_file_is_the_special_token() -> None:
    lines = b"".join(line(bytes([byte]), byte + (byte >= 100)) for byte in range(256))
    tokenizer = TiktokenTokenizer(serialize_tiktoken(lines, "gpt2"))
    assert (tokenizer.vocab, tokenizer.bos) == (257, 100) and tokenizer.encode(b"\x63\x64").tolist() == [99, 101]


def test_a_vocabulary_too_large_for_shards_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tokenizer = tokenizer_from_bytes(file_of(100_256))
    with pytest.raises(BitgolfError, match=r"at most 65,536 tokens, got .* 100,257 tokens"):
        prepare_data([Document("a", b"a")], [Document("b", b"b")], tokenizer, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_malformed_files_are_refused_with_the_place(tiktoken_file: bytes) -> None:
    serialized = serialize_tiktoken(tiktoken_file, "gpt2")
    header, _, _ = serialized.partition(tiktoken_file)
    hostile = {
        header + tiktoken_file + b"\xff": "line 400",
        header + tiktoken_file + b"QUE= 5\n": "line 400",
        header + tiktoken_file + b"=QUE 405\n": "line 400",
        header + tiktoken_file + b"\n\nQ=== 399\n": "line 402",
        header + tiktoken_file + line(b"a", 399): "the same bytes",
        header + tiktoken_file + line(b"zz!", 405): "gaps",
        header + b"".join(tiktoken_file.splitlines(keepends=True)[1:]): "no token for 1 of the 256 bytes",
        header: "no token for 256",
        MAGIC: "states no pattern",
        MAGIC + b"{}\n" + tiktoken_file: "states no pattern",
        MAGIC + b'{"pattern": 3}\n' + tiktoken_file: "its pattern is 3",
        MAGIC + b'{"pattern": "("}\n' + tiktoken_file: "not a regular expression",
    }
    for data, message in hostile.items():
        with pytest.raises(CorruptFileError, match=message) as error:
            tokenizer_from_bytes(data, where="here")
        assert error.value.where == "here"


def test_the_missing_package_is_named(tiktoken_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(BitgolfError, match="needs the package tiktoken") as error:
        TiktokenTokenizer(serialize_tiktoken(tiktoken_file, "gpt2"))
    assert "bitgolf[tokenizers]" in error.value.hint


@settings(max_examples=examples(100), deadline=None)
@given(at=st.floats(0, 1), value=st.integers(0, 255))
def test_a_byte_changed_is_refused_or_still_exact(tiktoken_file: bytes, at: float, value: int) -> None:
    changed = bytearray(serialize_tiktoken(tiktoken_file, "gpt2"))
    changed[int(at * (len(changed) - 1))] = value
    data = "def f(x): return 'é' <|endoftext|>".encode() + b"\xff"
    try:
        tokenizer = tokenizer_from_bytes(bytes(changed))
        ids = tokenizer.encode(data)
    except BitgolfError:
        return
    assert tokenizer.decode(ids) == data and tokenizer.count_bytes(ids).sum() == len(data)
