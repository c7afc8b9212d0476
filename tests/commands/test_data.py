"""`data make` and `data check`: shards from text, wrong options, damaged shards, and overlap of the splits."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from bitgolf.cli import app
from bitgolf.commands.data import ShardsCheck, check_shards, make_shards
from bitgolf.data.shards import read_shard
from bitgolf.errors import BitgolfError, Interrupted, UsageError
from bitgolf.runtime.folder_lock import LOCK_FILE, folder_lock
from bitgolf.tokens.caseops_tokenizer import MAGIC
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.trainers import SentencePieceBPE


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"document {i} says {i * 7919 % 1000}\n" * 12}) + "\n" for i in range(80))
    )
    return path


def test_make_then_check(text: Path, tmp_path: Path) -> None:
    made = make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2)
    assert made.train.documents + made.val.documents == 80
    assert made.train.raw_bytes == made.train.encoded_bytes and made.train.lost_bytes == 0
    assert (read_shard(tmp_path / "data" / "train_000000.bin") == 1).sum() == made.train.documents
    assert check_shards(tmp_path / "data") == ShardsCheck(folder=str(tmp_path / "data"), findings=[], passes=True)


def test_two_calls_in_one_folder(text: Path, tmp_path: Path) -> None:
    """The second is refused and leaves the folder as it was, also if the folder does not exist yet."""
    with folder_lock(tmp_path / "data"):
        with pytest.raises(BitgolfError, match=f"another process is writing to this folder: process {os.getpid()}"):
            make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2)
        assert [path.name for path in (tmp_path / "data").iterdir()] == [LOCK_FILE]
    assert not (tmp_path / "data").exists()
    make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2)
    assert not (tmp_path / "data" / LOCK_FILE).exists()


@pytest.mark.parametrize(("kind", "vocab"), [("caseops", 300), ("bytes", 260)])
def test_another_kind_of_tokenizer(kind: str, vocab: int, text: Path, tmp_path: Path) -> None:
    made = make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2, kind=kind)
    assert made.vocab <= vocab and made.findings == []
    assert made.val.raw_bytes == made.val.encoded_bytes
    assert check_shards(tmp_path / "data").findings == []
    opened = load_tokenizer(tmp_path / "data" / "tokenizer.model")
    again = make_shards(tmp_path / "again", [text], 300, tmp_path / "data" / "tokenizer.model", 0.2)
    assert again.tokenizer == opened.digest == made.tokenizer and opened.serialized.startswith(b"bitgolf ")


def test_a_published_model_with_case_operators(text: Path, shared: Path, tmp_path: Path) -> None:
    model = shared / "data" / "tokenizers" / "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model"
    made = make_shards(tmp_path / "data", [text], 300, model, 0.2)
    assert made.findings == []
    assert make_shards(tmp_path / "again", [text], 300, model, 0.2, kind="caseops") == made
    assert (tmp_path / "data" / "tokenizer.model").read_bytes() == MAGIC + model.read_bytes()
    assert made.vocab == 8192 and check_shards(tmp_path / "data").findings == []


@pytest.mark.parametrize(
    ("kind", "message"), [("bytes", "takes no --tokenizer file"), ("scylla", "unknown kind of tokenizer")]
)
def test_a_kind_that_cannot_be_is_a_wrong_use(kind: str, message: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make_shards(tmp_path / "data", [text], vocab=300, tokenizer=text, held_out=0.2, kind=kind)
    assert "--kind" in error.value.hint


def test_a_vocabulary_beside_a_file_is_a_wrong_use(text: Path, shared: Path, tmp_path: Path) -> None:
    model = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    words = ["data", "make", str(tmp_path / "data"), "--text", str(text), "--tokenizer", str(model), "--vocab", "1024"]
    with pytest.raises(UsageError, match="--vocab does nothing with --tokenizer, got 1024"):
        app(words, standalone_mode=False)
    assert not (tmp_path / "data").exists()


def test_a_kind_that_contradicts_the_file_is_a_wrong_use(text: Path, shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "tokenizers"
    for name, kind, found in (
        ("fineweb_1024_bpe.model", "caseops", "sentencepiece"),
        ("fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model", "sentencepiece", "caseops"),
    ):
        with pytest.raises(UsageError, match=f"--kind is {kind}, but this is a tokenizer of the kind {found}"):
            make_shards(tmp_path / "data", [text], 300, folder / name, 0.2, kind=kind)
    assert not (tmp_path / "data").exists()


def test_a_pattern_without_a_file_is_a_wrong_use(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pattern does nothing without --tokenizer"):
        make_shards(tmp_path / "data", [text], 300, None, 0.2, pattern="gpt2")


def tiktoken_pairs() -> bytes:
    """A tiktoken file of 300 tokens: the bytes, and some pairs."""
    pieces = [*(bytes([byte]) for byte in range(256)), *(b"%c%c" % (97 + i % 11, 110 + i // 11) for i in range(44))]
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))


def test_a_tiktoken_file_with_its_pattern(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    path = tmp_path / "pairs.tiktoken"
    path.write_bytes(tiktoken_pairs())
    words = ["data", "make", str(tmp_path / "data"), "--text", str(text), "--tokenizer", str(path)]
    with pytest.raises(UsageError, match="300 tokens"):
        app(words, standalone_mode=False)
    assert not (tmp_path / "data").exists()
    app([*words, "--pattern", "cl100k_base"], standalone_mode=False)
    assert check_shards(tmp_path / "data").findings == []
    assert load_tokenizer(tmp_path / "data" / "tokenizer.model").vocab == 301


@pytest.fixture
def without_space(tmp_path: Path) -> Path:
    """A tokenizer whose piece for a space has another name."""
    proto = SentencePieceBPE(vocab=300).train([b"some words, and some more " * 30])
    path = tmp_path / "without_space.model"
    path.write_bytes(proto.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82"))
    return path


def test_a_tokenizer_without_a_space_piece_is_refused_unless_forced(
    text: Path, without_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "make", str(tmp_path / "data"), "--text", str(text), "--tokenizer", str(without_space)]
    with pytest.raises(BitgolfError, match="no piece for a space") as error:
        app(words, standalone_mode=False)
    assert error.value.exit_code == 1 and "--force" in error.value.hint and error.value.where == str(without_space)
    assert not (tmp_path / "data").exists()
    app([*words, "--force"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "error" not in printed and "warning: there is no piece for a space" in printed and "(forced)" in printed
    assert check_shards(tmp_path / "data").passes


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [(b"\x0a\x03<s>", b"\x0a\x03<t>", "no BOS"), (b"\x0a\x06<0x41>", b"\x0a\x06<1x41>", "no byte fallback|not a")],
)
def test_what_cannot_be_encoded_is_refused_even_if_forced(
    before: bytes, after: bytes, message: str, text: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.model"
    path.write_bytes(SentencePieceBPE(vocab=300).train([b"some words, and some more " * 30]).replace(before, after))
    with pytest.raises(BitgolfError, match=message):
        make_shards(tmp_path / "data", [text], 300, path, 0.2, force=True)
    assert not (tmp_path / "data").exists()


def test_text_with_more_characters_than_the_vocabulary(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "make", str(tmp_path / "data"), "--text", str(shared / "cases" / "23" / "cjk.jsonl")]
    app([*words, "--vocab", "1024"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "note: character coverage lowered from 0.9995 to" in printed
    assert "warning" not in printed and "error" not in printed
    assert check_shards(tmp_path / "data").findings == []


@pytest.mark.parametrize("vocab", ["512", "1024"])  # an explicit default is refused, too
def test_a_vocabulary_of_bytes_is_a_wrong_use(vocab: str, text: Path, tmp_path: Path) -> None:
    words = ["data", "make", str(tmp_path / "data"), "--text", str(text), "--kind", "bytes"]
    with pytest.raises(UsageError, match="--vocab does nothing with --kind bytes") as error:
        app([*words, "--vocab", vocab], standalone_mode=False)
    assert "--vocab" in error.value.hint and not (tmp_path / "data").exists()
    app(words, standalone_mode=False)
    assert check_shards(tmp_path / "data").passes


def test_check_names_a_damaged_shard(text: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2)
    shard = tmp_path / "data" / "val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    found = check_shards(tmp_path / "data")
    assert not found.passes and any("val_000000.bin" in finding.message for finding in found.findings)


def test_training_on_validation_documents_is_refused(text: Path, tmp_path: Path) -> None:
    from bitgolf.data.prepare import prepare_data
    from bitgolf.text.documents import read_documents
    from bitgolf.tokens.loading import tokenizer_from_bytes

    documents = list(read_documents([text]))
    tokenizer = tokenizer_from_bytes(SentencePieceBPE(vocab=300).train(d.data for d in documents))
    with pytest.raises(BitgolfError, match=r"both|validation"):
        prepare_data(documents, documents[:3], tokenizer, tmp_path / "data")
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_every_verb_says_what_it_does() -> None:
    for command in app.registered_commands:
        assert command.callback and command.callback.__doc__


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with records under `content`, a null, a duplicate, a converted file, and a binary file."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"content": f"document {i} says {i * 7919 % 1000}\n" * 12} for i in (*range(40), 0)]
    lines = [json.dumps(row) for row in [*rows, {"content": None}]]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.txt").write_bytes("naïve".encode("utf-16"))
    (folder / "c.bin").write_bytes(b"\0")
    return folder


def test_make_reports_what_it_read(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    words = ["data", "make", str(tmp_path / "data"), "--text", str(corpus), "--kind", "bytes", "--skip-null"]
    app(words, standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "read 42 documents from 2 files (1 jsonl, 1 text)",
        f"key 'content' was guessed for 1 ({corpus}/a.jsonl)",
        f"converted from UTF-16 to UTF-8: 1 ({corpus}/b.txt)",
        f"skipped, no text under 'content': 1 ({corpus}/a.jsonl:42)",
        f"skipped, not text: 1 ({corpus}/c.bin)",
        "dropped 1 document with the same bytes as an earlier one",
    ]
    app([*words, "--json", "--key", "content"], standalone_mode=False)
    made = json.loads(capsys.readouterr().out)
    assert made["train"]["documents"] + made["val"]["documents"] == 41
    assert made["text"] == {
        "files": 2,
        "documents": 42,
        "formats": {"jsonl": 1, "text": 1},
        "skipped": {
            "no text under 'content'": {"count": 1, "first": [f"{corpus}/a.jsonl:42"]},
            "not text": {"count": 1, "first": [f"{corpus}/c.bin"]},
        },
        "duplicates": 1,
        "converted": {"UTF-16": {"count": 1, "first": [f"{corpus}/b.txt"]}},
        "guessed_keys": {},
        "bytes_read": sum(path.stat().st_size for path in corpus.iterdir()),
    }


def test_names_that_are_not_utf_8_are_printed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"document {name}")
    (folder / "c.bin").write_bytes(b"\0")
    words = ["data", "make", str(tmp_path / "data"), "--text", str(folder), "--kind", "bytes"]
    app(words, standalone_mode=False)
    assert rb"caf\udce9/c.bin" in capfdbinary.readouterr().out
    app([*words, "--json"], standalone_mode=False)
    made = json.loads(capfdbinary.readouterr().out)
    assert made["text"]["skipped"]["not text"]["first"] == [str(folder / "c.bin")]


def test_an_interrupt_says_how_to_go_on(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitgolf.commands.data.prepare_text", stopped)
    with pytest.raises(Interrupted) as caught:
        make_shards(tmp_path / "data", [text], vocab=300, tokenizer=None, held_out=0.2)
    assert caught.value.hint == "the same command continues" and str(tmp_path / "data") in str(caught.value)
