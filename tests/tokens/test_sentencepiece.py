"""Tests of SentencePiece models: exact round trip of any bytes, and exact byte counts of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.tokens.loading import load_tokenizer
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer, challenge_bytes
from helpers.examples import examples

HOSTILE = [
    b"",
    b" ",
    b"  two  spaces  ",
    b"\t\n\r\n\x00\x01\x7f",
    "é e\u0301 \ufb01 ½ ＡＢ \u00a0\u3000\u200b\u200d\ufeff".encode(),
    "🙂👨‍👩‍👧 \U000e0001\U0010ffff\ufffd\uffff".encode(),
    "\u2581literal\u2581 \u2581\u2581 \u2585".encode(),
    "\ue001a\ue002\ue003b\ue004".encode(),
    b"\xff\xfe\x80 caf\xe9 \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x96",
    b"<s></s><unk><pad><0x41>",
    bytes(range(256)),
]
PUBLIC = [
    "fineweb_1024_bpe",
    "fineweb_4096_bpe",
    "fineweb_8192_bpe",
    "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved",
]
NO_FALLBACK = "fineweb_2048_bpe_no_byte_fallback"

pieces_of_text = st.sampled_from([*HOSTILE, b"def ", b"self", b"\n    ", b"return"])
any_bytes = st.lists(st.binary(max_size=6) | st.text(max_size=6).map(str.encode) | pieces_of_text, max_size=12).map(
    b"".join
)


@pytest.fixture(scope="session", params=PUBLIC)
def public(request: pytest.FixtureRequest, shared: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer((shared / "data" / "tokenizers" / f"{request.param}.model").read_bytes())


def without_space_piece(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    """The same model with another name for the piece U+2581, whose entry is field 1, of length 3."""
    assert tokenizer.serialized.count(b"\x0a\x03\xe2\x96\x81") == 1
    return SentencePieceTokenizer(tokenizer.serialized.replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xe2\x96\x82"))


@settings(max_examples=examples(300), deadline=None)
@given(data=any_bytes)
def test_any_bytes_come_back(tokenizer: SentencePieceTokenizer, data: bytes) -> None:
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    assert tokenizer.byte_lengths[ids].sum() == len(data)


@settings(max_examples=examples(100), deadline=None)
@given(data=any_bytes)
def test_any_bytes_come_back_from_the_published_models(public: SentencePieceTokenizer, data: bytes) -> None:
    ids = public.encode(data)
    assert public.decode(ids) == data
    assert public.byte_lengths[ids].sum() == len(data)


@settings(deadline=None)
@given(data=any_bytes)
def test_any_bytes_come_back_without_a_space_piece(tokenizer: SentencePieceTokenizer, data: bytes) -> None:
    odd = without_space_piece(tokenizer)
    assert odd.decode(odd.encode(data)) == data
    assert not odd.lossless
    assert len(odd.encode(b"return ( return")) <= 2 * len(tokenizer.encode(b"return")) + 3


@settings(max_examples=examples(30), deadline=None)
@given(documents=st.lists(any_bytes, max_size=5))
def test_a_batch_is_its_documents_one_by_one(tokenizer: SentencePieceTokenizer, documents: list[bytes]) -> None:
    batch = tokenizer.encode_documents(documents)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(data).tolist() for data in documents]


def test_every_character_of_unicode_comes_back(tokenizer: SentencePieceTokenizer) -> None:
    data = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    assert tokenizer.decode(tokenizer.encode(data)) == data


def test_exact_encoding_is_sentencepieces_own_where_that_is_exact(
    tokenizer: SentencePieceTokenizer, library: list[bytes]
) -> None:
    for data in library:
        ids, lost = tokenizer.encode_normalised(data)
        assert lost == 0
        assert tokenizer.encode(data).tolist() == ids.tolist()


def test_only_what_would_be_altered_is_spelled_in_bytes(tokenizer: SentencePieceTokenizer) -> None:
    whole = tokenizer.encode(b"return self").tolist()
    spelled = [tokenizer.piece_strings.index(f"<0x{byte:02X}>") for byte in b"\xe2\x96\x81\xff"]
    assert tokenizer.encode(b"return self\xe2\x96\x81\xffreturn self").tolist() == [*whole, *spelled, *whole]


def test_exactness_does_not_rest_on_sentencepiece(
    tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        def encode(self, texts: list[str], **_: int) -> list[list[int]]:
            return [[3, 300]] * len(texts)

    monkeypatch.setattr(tokenizer, "_identity_processor", Wrong())
    data = "some é text".encode()
    assert tokenizer.decode(tokenizer.encode(data)) == data


def test_what_tokens_stand_for(tokenizer: SentencePieceTokenizer) -> None:
    assert [tokenizer.piece_bytes[i] for i in range(4)] == [b""] * 4
    assert tokenizer.piece_bytes[tokenizer.piece_strings.index("<0xE2>")] == b"\xe2"
    assert tokenizer.piece_bytes[tokenizer.piece_strings.index("\u2581\u2581\u2581\u2581")] == b"    "
    assert tokenizer.is_byte.sum() == 256 and tokenizer.is_boundary.sum() == 4
    assert tokenizer.byte_lengths.dtype == np.int64
    assert tokenizer.encode(b"").shape == (0,) and tokenizer.encode(b"a").dtype == np.int32


def test_lossless_is_said_of_the_model_itself(
    tokenizer: SentencePieceTokenizer, public: SentencePieceTokenizer
) -> None:
    assert tokenizer.lossless and tokenizer.identity_normaliser
    assert not public.lossless and not public.identity_normaliser and public.byte_fallback and public.has_space


def test_the_operators_of_caseops_are_ordinary_pieces(shared: Path) -> None:
    tokenizer = SentencePieceTokenizer((shared / "data" / "tokenizers" / f"{PUBLIC[-1]}.model").read_bytes())
    text = "\ue001the\ue004".encode()
    ids = tokenizer.encode(text).tolist()
    assert [tokenizer.piece_strings[i] for i in (ids[0], ids[-1])] == ["\ue001", "\ue004"]
    assert tokenizer.byte_lengths[ids].sum() == len(text) == 9


# ---- as SentencePieceTokenizer does it ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(data=any_bytes)
def test_the_table_telescopes_to_the_normalised_text(public: SentencePieceTokenizer, data: bytes) -> None:
    ids, lost = public.encode_normalised(data)
    normal = public.normalised(data)
    assert public.decode(ids) == normal
    assert public.byte_lengths[ids].sum() == len(normal)
    assert 0 <= lost <= len(data)
    assert (lost == 0) <= (normal == data)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("plain text", 0),
        ("two  spaces", 1),
        (" edge ", 2),
        ("a\nb", 1),
        ("\ufb01", 3),
        ("e\u0301", 3),
        ("\u2581", 3),
        ("½ a", 2),
        ("naïve", 0),
    ],
)
def test_lost_bytes_are_those_of_characters_that_do_not_come_through(
    public: SentencePieceTokenizer, text: str, lost: int
) -> None:
    assert public.encode_normalised(text.encode())[1] == lost


def test_bytes_that_are_not_utf8_are_lost(public: SentencePieceTokenizer) -> None:
    assert public.encode_normalised(b"ab\xffcd")[1] == 1


def test_an_added_space_is_not_a_lost_one(tokenizer: SentencePieceTokenizer) -> None:
    prefixing = SentencePieceTokenizer(
        tokenizer.serialized + b"\x1a\x02\x18\x01"
    )  # normalizer_spec.add_dummy_prefix = true
    assert not prefixing.lossless
    assert prefixing.normalised(b" a") == b"  a" and prefixing.encode_normalised(b" a")[1] == 0
    assert prefixing.encode(b"a").tolist() == tokenizer.encode(b"a").tolist()


def test_unknown_characters_are_lost_without_byte_fallback(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / f"{NO_FALLBACK}.model")
    ids, lost = tokenizer.encode_normalised("a 🙂 b".encode())
    assert lost == 4 and tokenizer.decode(ids) == b"a  b"
    with pytest.raises(BitgolfError, match="no byte fallback"):
        tokenizer.encode(b"a")


# ---- the challenge's rule ----------------------------------------------------------------------------------------


def counted_one_by_one(tokenizer: SentencePieceTokenizer, ids: list[int]) -> list[int]:
    """The byte rule of the challenge, one token at a time in plain Python."""
    counts, before = [], None
    for token in ids:
        name = tokenizer.piece_strings[token]
        real = name.startswith("\u2581") and before is not None and not tokenizer.is_boundary[before]
        if tokenizer.is_boundary[token]:
            counts.append(0)
        else:
            counts.append(1 if tokenizer.is_byte[token] else len(name.removeprefix("\u2581").encode()) + real)
        before = token
    return counts


@settings(deadline=None)
@given(data=st.data())
def test_the_challenges_rule_is_counted_by_token_and_predecessor(
    tokenizer: SentencePieceTokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab - 1), max_size=20))
    assert challenge_bytes(tokenizer, np.array(ids, np.int64)).tolist() == counted_one_by_one(tokenizer, ids)


def test_the_challenges_rule_agrees_on_normalised_documents_and_not_on_a_leading_space(
    public: SentencePieceTokenizer,
) -> None:
    document = public.encode_normalised("Two words, 🙂 and naïve.".encode())[0]
    ids = np.array([1, *document, 1, *document])
    assert challenge_bytes(public, ids).sum() == 2 * public.byte_lengths[document].sum()
    spaced = public.encode(b" word")
    assert challenge_bytes(public, np.array([1, *spaced])).sum() == 4
    assert challenge_bytes(public, np.array([public.piece_strings.index("<0x41>"), *spaced])).sum() == 1 + 5


# ---- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proto", [b"", b"junk", b"\x0a\x03abc"])
def test_what_is_not_a_model_is_refused(proto: bytes) -> None:
    with pytest.raises(CorruptFileError, match="not a SentencePiece model"):
        SentencePieceTokenizer(proto)


def test_a_model_has_a_name_for_its_content(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(tokenizer.serialized)
    assert load_tokenizer(path).digest == tokenizer.digest
    assert SentencePieceTokenizer(tokenizer.serialized + b"\x1a\x00").digest != tokenizer.digest
    with pytest.raises(BitgolfError, match="cannot be read"):
        load_tokenizer(tmp_path / "none")
