"""Tests of all tokenizer types: exact round trip of any bytes, and each byte counted in exactly one token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError, UsageError
from bitgolf.text.caseops import OPERATORS, encode_case
from bitgolf.tokens import byte_tokenizer, caseops_tokenizer
from bitgolf.tokens.audit import audit_tokenizer
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.caseops_tokenizer import CaseOpsTokenizer
from bitgolf.tokens.loading import load_tokenizer, tokenizer_from_bytes
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.tiktoken_tokenizer import serialize_tiktoken
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE, TokenizerFile
from helpers.examples import examples

PUBLISHED = "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved"
ENGLISH = [
    b"The NASA report, by John McDonald. It SAYS: the Report of NASA is the report %d.\n" % i for i in range(200)
]
TRICKY = [
    b"",
    b"iPhone OpenAI ABc I",
    "ESC \ue004\ue001\ue002x\ue003 É\ue001".encode(),
    "\u2581 Literal \u2581Mark".encode(),
    b"\xee\x80A\x81 \xff\xfeBad \xed\xa0\x80",
    "🙂 Ｆull e\u0301 \ufb01".encode(),
]
any_bytes = st.lists(
    st.binary(max_size=5) | st.text(max_size=5).map(str.encode) | st.sampled_from([*TRICKY, *OPERATORS, *ENGLISH[:2]]),
    max_size=8,
).map(b"".join)


@pytest.fixture(scope="session")
def case_operators() -> CaseOpsTokenizer:
    tokenizer = tokenizer_from_bytes(CaseOpsBPE(vocab=340).train(ENGLISH))
    assert isinstance(tokenizer, CaseOpsTokenizer)
    return tokenizer


@pytest.fixture(
    scope="session",
    params=["sentencepiece", "bytes", "caseops", "published caseops", "huggingface", "tiktoken"],
)
def kind(request: pytest.FixtureRequest, tokenizer: SentencePieceTokenizer) -> Tokenizer:
    if request.param == "published caseops":
        folder = request.getfixturevalue("shared") / "data" / "tokenizers"
        return load_tokenizer(folder / f"{PUBLISHED}.model")
    if request.param == "huggingface":
        return tokenizer_from_bytes(json.dumps(request.getfixturevalue("huggingface_json")).encode())
    if request.param == "tiktoken":
        return tokenizer_from_bytes(serialize_tiktoken(request.getfixturevalue("tiktoken_file"), "o200k_base"))
    own = {"sentencepiece": tokenizer, "bytes": ByteTokenizer()}
    return own.get(request.param) or request.getfixturevalue("case_operators")


# ---- what all kinds keep ---------------------------------------------------------------------------------------------


@settings(max_examples=examples(200), deadline=None)
@given(data=any_bytes)
def test_any_bytes_come_back_and_each_is_counted_once(kind: Tokenizer, data: bytes) -> None:
    ids = kind.encode(data)
    told = kind.count_bytes(ids)
    assert kind.decode(ids) == kind.decode_lenient(ids.tolist()) == data
    assert told.shape == ids.shape and told.dtype == np.int64
    assert told.min(initial=0) >= 0 and told.sum() == len(data)


@settings(max_examples=examples(60), deadline=None)
@given(documents=st.lists(any_bytes, max_size=4))
def test_a_stream_counts_as_its_documents(kind: Tokenizer, documents: list[bytes]) -> None:
    """Also if the last bytes of a document and the first ones of the next one would form an operator."""
    encoded = kind.encode_documents([*documents, b"\xee\x80", b"\x81x"])
    stream = np.concatenate([np.append([kind.bos], ids) for ids in encoded])
    alone = np.concatenate([np.append([0], kind.count_bytes(ids)) for ids in encoded])
    assert kind.count_bytes(stream).tolist() == alone.tolist()
    assert kind.decode(stream) == b"".join(documents) + b"\xee\x80\x81x"
    assert [ids.tolist() for ids in encoded[:-2]] == [kind.encode(data).tolist() for data in documents]


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_any_tokens_are_readable(kind: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, kind.vocab - 1), max_size=20))
    assert len(kind.decode_lenient(ids)) == kind.count_bytes(np.array(ids, np.int64)).sum()


def test_the_shape_of_a_tokenizer(kind: Tokenizer) -> None:
    assert len(kind.piece_strings) == len(kind.piece_bytes) == len(kind.byte_lengths) == kind.vocab
    special = {"huggingface": [0], "tiktoken": [kind.vocab - 1]}.get(kind.kind, [0, 1, 2, 3])
    assert kind.is_byte.sum() == 256 and np.flatnonzero(kind.is_boundary).tolist() == special
    assert kind.bos == special[len(special) == 4] and kind.byte_fallback and kind.has_space
    assert kind.encode(b"").shape == (0,) and kind.encode(b"a").dtype == np.int32
    assert kind.count_bytes(kind.encode(b"")).shape == (0,)


def test_its_serialized_form_opens_as_the_same(kind: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(kind.serialized)
    again = load_tokenizer(path)
    assert (type(again), again.digest, again.where) == (type(kind), kind.digest, str(path))
    assert again.encode(TRICKY[2]).tolist() == kind.encode(TRICKY[2]).tolist()


def test_an_audit_finds_no_error(kind: Tokenizer) -> None:
    assert audit_tokenizer(kind, [*ENGLISH[:20], *TRICKY]) == []


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_a_byte_is_its_token() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab == 260 and tokenizer.lossless
    assert tokenizer.encode(b"\x00A\xff").tolist() == [4, 69, 259]
    assert tokenizer.piece_strings[:4] == ["<pad>", "<s>", "</s>", "<unk>"] and tokenizer.piece_strings[69] == "<0x41>"
    assert tokenizer.count_bytes(np.array([1, 69, 2])).tolist() == [0, 1, 0]


def test_bytes_are_no_training() -> None:
    def read() -> Iterator[bytes]:
        raise AssertionError("read")
        yield

    assert tokenizer_from_bytes(ByteLevel().train(read())).vocab == 260
    assert part(ByteLevel)["vocab"] == 260
    with pytest.raises(RecipeError):
        part(ByteLevel).set("vocab", 300)


# ---- case operators --------------------------------------------------------------------------------------------------


def test_the_operators_are_the_first_tokens(kind: Tokenizer) -> None:
    if not isinstance(kind, CaseOpsTokenizer):
        return
    assert kind.piece_bytes[4:8] == list(OPERATORS) and kind.byte_lengths[4:8].tolist() == [0] * 4
    holding = [i for i, piece in enumerate(kind.piece_bytes) if any(operator in piece for operator in OPERATORS)]
    assert holding == [4, 5, 6, 7]
    assert kind.piece_strings[8] == "<0x00>"


def test_bytes_are_told_where_they_become_certain(case_operators: CaseOpsTokenizer) -> None:
    """TITLE counts 0 bytes and its letter 1; ESC counts 0 and the operator after it 3."""
    ids = case_operators.encode("Z\ue001".encode())
    assert [case_operators.piece_bytes[i] for i in ids] == [OPERATORS[0], b"z", OPERATORS[3], OPERATORS[0]]
    assert case_operators.count_bytes(ids).tolist() == [0, 1, 0, 3]


def test_an_operator_may_be_spelled_in_bytes(case_operators: CaseOpsTokenizer) -> None:
    """No encoder of this package produces it, but decoding and counting are still exact."""
    spelled = [case_operators.piece_strings.index(f"<0x{byte:02X}>") for byte in OPERATORS[0] + b"a"]
    assert case_operators.decode(spelled) == b"A"
    assert case_operators.count_bytes(np.array(spelled)).tolist() == [0, 0, 0, 1]


def test_the_table_is_exact_but_for_literal_operators(case_operators: CaseOpsTokenizer) -> None:
    for data in [*ENGLISH, *TRICKY]:
        literal = sum(data.count(operator) for operator in OPERATORS)
        assert case_operators.byte_lengths[case_operators.encode(data)].sum() == len(data) - 3 * literal


def test_tokens_that_no_text_has_are_refused(case_operators: CaseOpsTokenizer) -> None:
    title, z = case_operators.encode(b"Z").tolist()
    for ids in ([title], [title, title, z], [z, title, z], [title, case_operators.bos, z]):
        with pytest.raises(CorruptFileError, match=r"misplaced operator U\+E001"):
            case_operators.decode(ids)


def test_words_are_the_same_tokens_however_they_are_written(case_operators: CaseOpsTokenizer) -> None:
    small, *others = (case_operators.encode(word).tolist() for word in (b"report", b"Report", b"REPORT"))
    assert [ids[1:] for ids in others] == [small, small]
    assert [ids[0] for ids in others] == [4, 5]


def test_they_are_trained_on_transformed_text() -> None:
    plain = SentencePieceTokenizer(SentencePieceBPE(vocab=340).train(ENGLISH))
    operators = tokenizer_from_bytes(CaseOpsBPE(vocab=340).train(ENGLISH))
    assert operators.lossless and operators.vocab == plain.vocab == 340
    assert not any(piece != piece.lower() for piece in operators.piece_bytes[264:])
    assert any(piece != piece.lower() for piece in plain.piece_bytes[260:])
    assert CaseOpsBPE(vocab=340).train(ENGLISH[::-1]) == operators.serialized
    with pytest.raises(BitgolfError, match="no tokenizer") as error:
        CaseOpsBPE(vocab=100).train(ENGLISH)
    assert error.value.where == "CaseOpsBPE"


def test_the_published_model_is_opened_as_what_it_is(shared: Path) -> None:
    path = shared / "data" / "tokenizers" / f"{PUBLISHED}.model"
    tokenizer = tokenizer_from_bytes(part(TokenizerFile, path=str(path), vocab=8192)().train([]))
    assert tokenizer.serialized == caseops_tokenizer.MAGIC + path.read_bytes()
    assert TokenizerFile(path=str(path), vocab=8192, case_operators=True).train([]) == tokenizer.serialized
    assert isinstance(tokenizer, CaseOpsTokenizer) and tokenizer.vocab == 8192
    assert tokenizer.encode(b"the").tolist() == tokenizer.encode(b"The").tolist()[1:]
    assert tokenizer.decode(tokenizer.encode(ENGLISH[0])) == ENGLISH[0]
    ids, lost = tokenizer.encode_normalised(b"Two  Spaces")
    assert tokenizer.decode_lenient(ids.tolist()) == tokenizer.normalised(b"Two  Spaces") == b"Two Spaces" and lost == 1


# ---- hostile ---------------------------------------------------------------------------------------------------------


def test_what_is_no_tokenizer_is_refused(tokenizer: SentencePieceTokenizer, case_operators: CaseOpsTokenizer) -> None:
    hostile = {
        byte_tokenizer.MAGIC + b"\0": "not a byte tokenizer",
        byte_tokenizer.MAGIC[:-1]: "not a SentencePiece model",
        caseops_tokenizer.MAGIC: "not a SentencePiece model",
        caseops_tokenizer.MAGIC + case_operators.serialized: "not a",
        caseops_tokenizer.MAGIC + byte_tokenizer.MAGIC: "not a SentencePiece model",
        case_operators.serialized[:-7]: "not a SentencePiece model",
        caseops_tokenizer.MAGIC + tokenizer.serialized: r"no piece for U\+E001",
        case_operators.serialized.replace(OPERATORS[2], b"\xee\x80\x85"): r"no piece for U\+E003",
        case_operators.serialized.replace(b"<0x41>", b"<0y41>"): "not a",
    }
    for proto, message in hostile.items():
        with pytest.raises(CorruptFileError, match=message) as error:
            tokenizer_from_bytes(proto, where="here")
        assert error.value.where == "here"


@settings(max_examples=examples(60), deadline=None)
@given(at=st.floats(0, 1), value=st.integers(0, 255))
def test_a_byte_changed_is_refused_or_still_exact(case_operators: CaseOpsTokenizer, at: float, value: int) -> None:
    proto = bytearray(case_operators.serialized)
    proto[int(at * (len(proto) - 1))] = value
    try:
        odd = tokenizer_from_bytes(bytes(proto))
        ids = odd.encode(ENGLISH[0])
    except BitgolfError:
        return
    assert odd.decode(ids) == ENGLISH[0] and odd.count_bytes(ids).sum() == len(ENGLISH[0])


def test_a_plain_model_is_not_one_for_operators(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    path = tmp_path / "plain.model"
    path.write_bytes(tokenizer.serialized)
    with pytest.raises(UsageError, match="no case operators"):
        TokenizerFile(path=str(path), vocab=400, case_operators=True).train([])
    with pytest.raises(UsageError, match="400 pieces"):
        TokenizerFile(path=str(path), vocab=300).train([])


def test_operators_that_a_text_taught_are_no_case_operators() -> None:
    """A model whose trainer met all four characters in its text is a plain one: they are not among its symbols."""
    text = [*ENGLISH, "\ue001\ue002\ue003\ue004 ".encode() * 500]
    learned = tokenizer_from_bytes(SentencePieceBPE(vocab=400, character_coverage=1.0).train(text))
    assert set(OPERATORS) <= set(learned.piece_bytes) and isinstance(learned, SentencePieceTokenizer)


def test_the_text_in_front_is_the_transformed_one(case_operators: CaseOpsTokenizer) -> None:
    """The tokens are those of SentencePiece for the text with operators."""
    inner = SentencePieceTokenizer(case_operators.serialized.removeprefix(caseops_tokenizer.MAGIC))
    for data in [*ENGLISH[:5], *TRICKY]:
        assert case_operators.encode(data).tolist() == inner.encode(encode_case(data)).tolist()
