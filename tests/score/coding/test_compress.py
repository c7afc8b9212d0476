"""Compression: lossless for any bytes, of the predicted size, and an error for damaged files."""

from __future__ import annotations

import io
import math
import random
import re
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, FormatVersionError, UsageError
from bitgolf.model.lm import LM
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.coding import coded_text as coder
from bitgolf.score.coding.bgz_format import BGZSection, SectionWriter, read_numbers, read_sections
from bitgolf.score.coding.coded_text import MIN_PROBABILITY, TextCodec
from bitgolf.score.coding.compress import Compressed, compress, decompress
from bitgolf.score.coding.file_blocks import split_block
from bitgolf.score.coding.open_predictor import CPU_FLOAT32
from bitgolf.score.length_code import encode_lengths
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.text import tokenize_documents
from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer
from bitgolf.tokens.trainers import SentencePieceBPE
from helpers.examples import examples
from helpers.toy import built, toy_model

TEXT = b"".join(b"line %d of a text that repeats itself, and again %d\n" % (i, i * i % 97) for i in range(3000))
SLIDING: Spec[ScoringMethod] = part(SlidingScoring, window=24, stride=12)
LORA: Spec[ScoringMethod] = part(
    DocumentLoRA, window=24, stride=8, rows=3, rank=2, lr=0.05, target_modules=("head", "q")
)
LORA_FLAT: Spec[ScoringMethod] = part(
    DocumentLoRA, window=16, stride=16, rows=2, rank=1, lr=0.02, target_modules=("v",)
)
METHODS: tuple[Spec[ScoringMethod], ...] = (SLIDING, LORA, LORA_FLAT)
DOCUMENTS = st.lists(
    st.binary(max_size=40) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass")), max_size=5
)
SMALL = toy_model().set("layers", 1)
FEW = settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    tokenizer = SentencePieceTokenizer(SentencePieceBPE(vocab=300).train([TEXT]))
    model = built(SMALL, vocab=tokenizer.vocab, noise=0.05)
    return TextCodec(model, tokenizer, b"12345678", METHODS)


def code(codec: TextCodec, documents: list[bytes], method: Spec[ScoringMethod] = SLIDING, rows: int = 4) -> Compressed:
    """In native arithmetic, which starts sooner; `test_arithmetic` has both."""
    return compress(codec, codec.tokenizer.encode_documents(documents), method=method, rows=rows, portable=False)


def charged(codec: TextCodec, documents: list[bytes], method: Spec[ScoringMethod]) -> float:
    """The referee's bits for the same documents, isolated."""
    made = method()
    with closing(made.make_player(codec.model, codec.tokenizer.vocab, CPU_FLOAT32, SINGLE_PROCESS)) as player:
        return score(player, tokenize_documents(documents, codec.tokenizer), made).bits


# ---- lossless --------------------------------------------------------------------------------------------------------


@FEW
@given(
    DOCUMENTS,
    st.integers(1, 5),
    st.sampled_from([*METHODS, part(ContiguousScoring, window=9), part(SlidingScoring, window=7, stride=3)]),
)
def test_any_documents_come_back(
    codec: TextCodec, documents: list[bytes], rows: int, method: Spec[ScoringMethod]
) -> None:
    assert decompress(codec, code(codec, documents, method, rows).data) == documents


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"a", b"\xff\xfe\x80", "▁ \U0001f600 é".encode(), bytes(range(0, 256, 3))]
)
def test_corner_cases_come_back(codec: TextCodec, data: bytes) -> None:
    assert decompress(codec, code(codec, [data]).data) == [data]
    assert decompress(codec, code(codec, [b"", data, data, b""]).data) == [b"", data, data, b""]


def test_a_file_is_cut_into_documents_that_join(codec: TextCodec) -> None:
    data = TEXT[:70_000]
    cut = split_block(codec, data, 64)
    assert cut
    assert len(cut) == 4
    assert all(codec.tokenizer.decode(part).endswith(b"\n") for part in cut[:-1])
    assert b"".join(map(codec.tokenizer.decode, cut)) == data
    blank = bytes(range(33, 100)) * 2000  # no line ends
    assert b"".join(map(codec.tokenizer.decode, split_block(codec, blank, 64) or [])) == blank
    assert [len(part) for part in split_block(codec, b"", 64) or []] == [0]


def test_rows_that_are_dropped_change_nothing(codec: TextCodec) -> None:
    """Documents end one after the other, so that rows are dropped within windows and between them."""
    documents = [TEXT[i : i + 10 + 40 * i] for i in range(7)]
    made = code(codec, documents, part(SlidingScoring, window=7, stride=3, isolated=True), rows=7)
    assert decompress(codec, made.data) == documents
    one = code(codec, documents, part(SlidingScoring, window=7, stride=3, isolated=True), rows=1)
    assert made.bits == pytest.approx(one.bits, rel=1e-6)


# ---- the predicted size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [part(SlidingScoring, window=24, stride=12, isolated=True), part(SlidingScoring, window=7, stride=3, isolated=True), part(ContiguousScoring, window=9, isolated=True), LORA, LORA_FLAT],
)  # fmt: skip
def test_predicted_bits_are_the_referees(codec: TextCodec, method: Spec[ScoringMethod]) -> None:
    """With documents longer and shorter than the window, and empty ones; more documents than rows."""
    documents = [TEXT[:100], b"", b"x", TEXT[200:240], TEXT[300:450], TEXT[600:620], b"\xff", TEXT[700:850]]
    made = code(codec._replace(methods=[method]), documents, method, rows=3)
    assert made.bits == pytest.approx(charged(codec, documents, method), rel=1e-5)


def test_adapters_learn_in_the_walk(codec: TextCodec) -> None:
    """Adaptation changes the bits, so the round trip above does test it."""
    documents = [TEXT[:400], TEXT[700:1100]]
    still = LORA().without_adaptation()
    assert still
    assert code(codec, documents, LORA).bits < 0.97 * charged(codec, documents, still)


def test_size_is_what_was_predicted(codec: TextCodec) -> None:
    made = code(
        codec, [TEXT[i : i + 250] for i in range(0, 40_000, 250)], part(SlidingScoring, window=48, stride=24), rows=160
    )
    assert abs(8 * len(made.data) - made.bits) < 0.001 * made.bits + 8 * 60


@pytest.mark.parametrize("vocab", [2, 1024, 8192])
@pytest.mark.parametrize("kind", ["certain", "uniform", "floor"])
def test_adversarial_tables_cost_what_they_say(vocab: int, kind: str) -> None:
    """24-bit tables with at least 1 per token: the loss is V / 2^24 of the mass, and no token costs over 24 bits."""
    count = 2000
    tables = np.full((count, vocab), {"uniform": 1 / vocab}.get(kind, 1e-9 / (vocab - 1)), np.float32)
    symbols = np.random.default_rng(0).integers(0, vocab, count).astype(np.int32)
    if kind != "uniform":
        likely = symbols if kind == "certain" else (symbols + 1) % vocab
        tables[np.arange(count), likely] = 1 - 1e-9
    encoder = coder._stream.queue.RangeEncoder()
    encoder.encode(symbols, coder.CATEGORICAL, tables)
    mass = vocab * MIN_PROBABILITY
    each = {"certain": -math.log2(1 - mass), "uniform": math.log2(vocab), "floor": 24.0}[kind]
    assert encoder.num_bits() == pytest.approx(count * each, rel=2e-4, abs=64 + count * 2e-7)
    decoder = coder._stream.queue.RangeDecoder(encoder.get_compressed())
    assert (decoder.decode(coder.CATEGORICAL, tables) == symbols).all()


def test_a_small_file_has_a_small_header(codec: TextCodec) -> None:
    """The name of the machine's arithmetic included, which takes 33 bytes here."""
    made = code(codec, [TEXT[:600]])
    assert 8 * len(made.data) - made.bits < 8 * 110


# ---- inputs that cannot be coded -------------------------------------------------------------------------------------


def test_a_method_that_the_artifact_does_not_name_is_refused(codec: TextCodec) -> None:
    """Contiguous and sliding windows are an exception, since the header can specify them."""
    with pytest.raises(UsageError, match=r"lora.* is not in the artifact"):
        code(codec, [b"text"], part(DocumentLoRA))
    assert decompress(codec._replace(methods=()), code(codec, [b"text"], part(ContiguousScoring, window=8)).data) == [
        b"text"
    ]


def test_what_memory_cannot_hold_is_refused(codec: TextCodec) -> None:
    documents = [b""] * 20
    with pytest.raises(UsageError, match="too many"):
        code(codec, documents, part(SlidingScoring, window=1 << 16, stride=1), rows=20)


def test_a_token_that_ends_documents_is_refused(codec: TextCodec) -> None:
    with pytest.raises(UsageError, match="ends documents"):
        compress(codec, [np.array([5, codec.model.bos, 7], np.int32)], method=SLIDING)


def test_logits_that_are_not_finite_are_located(codec: TextCodec) -> None:
    broken = built(SMALL, vocab=codec.tokenizer.vocab)
    broken.embed.weight.data[7] = math.nan
    with pytest.raises(BitgolfError, match="not finite") as refused:
        code(codec._replace(model=broken), [b"text"])
    assert refused.value.where == "document 0, token 0"


# ---- another model, or a damaged file --------------------------------------------------------------------------------


def test_another_model_is_refused(codec: TextCodec) -> None:
    data = code(codec, [b"some text"]).data
    with pytest.raises(BitgolfError, match="another model"):
        decompress(codec._replace(digest=b"87654321"), data)


def flipped(codec: TextCodec) -> LM:
    """The same model with one bit of one weight flipped."""
    other = built(SMALL, vocab=codec.tokenizer.vocab, noise=0.05)
    weight = dict(other.named_parameters())["blocks.0.mlp.up.weight"]
    weight.data.view(torch.int32)[3, 4] ^= 1 << 20
    return other


@pytest.mark.parametrize("method", [SLIDING, LORA])
def test_one_flipped_weight_is_caught_and_located(codec: TextCodec, method: Spec[ScoringMethod]) -> None:
    data = code(codec, [TEXT[:200], TEXT[600:800]], method).data
    with pytest.raises(BitgolfError, match="computes other probabilities") as caught:
        decompress(codec._replace(model=flipped(codec)), data)
    assert re.match(r"between document (\d), token 0 and document \1, token ", caught.value.where)


def test_a_later_divergence_is_located_where_it_begins(codec: TextCodec) -> None:
    """The embedding of a token differs that occurs in the shortest document only, which is coded last."""
    made = code(codec, [TEXT[:200], TEXT[200:500], TEXT[500:550] + b"\x07" + TEXT[700:750]], rows=1)
    (token,) = [
        i for i, piece in enumerate(codec.tokenizer.piece_bytes) if piece == b"\x07" and codec.tokenizer.is_byte[i]
    ]
    seen = codec.model.embed.register_forward_hook(lambda module, args, out: out + 1e-3 * (args[0] == token)[..., None])
    try:
        with pytest.raises(BitgolfError, match="computes other probabilities") as caught:
            decompress(codec, made.data)
    finally:
        seen.remove()
    assert re.match(r"between document 0, token \d+ and the end", caught.value.where)


def test_a_damaged_file_is_never_decoded_into_garbage(codec: TextCodec) -> None:
    whole = code(codec, [TEXT[:500], b"another"]).data
    chance = random.Random(0)
    for _ in range(400):
        data = bytearray(whole)
        match chance.randrange(3):
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case _:
                data.insert(chance.randrange(len(data)), chance.randrange(256))
        with pytest.raises(BitgolfError):
            decompress(codec, bytes(data))


def test_a_file_of_another_format_is_an_error_that_says_so(codec: TextCodec) -> None:
    data = bytearray(code(codec, [b"text"]).data)
    data[3] = 2
    with pytest.raises(FormatVersionError, match="has format 2; this version reads format 5"):
        decompress(codec, bytes(data))


def checked(*sections: BGZSection) -> bytes:
    """A file with these sections and valid CRCs."""
    target = io.BytesIO()
    writer = SectionWriter(target)
    for section in sections:
        writer.add(section)
    return target.getvalue()


def sections_of(data: bytes) -> list[BGZSection]:
    return list(read_sections(io.BytesIO(data), len(data)))


def test_damage_with_a_right_checksum_is_found_too(codec: TextCodec) -> None:
    """Damage with a recomputed checksum raises an error quickly, or restores exactly the documents."""
    documents = [TEXT[:60], b"b"]
    whole = code(codec, documents).data
    chance = random.Random(1)
    sections = sections_of(whole)
    for number, section in enumerate(sections):
        for at in [*range(0, min(40, len(section.body)), 2), *range(40, len(section.body), 8)]:
            body = bytearray(section.body)
            body[at] ^= 1 << chance.randrange(8)
            altered = [*sections[:number], section._replace(body=bytes(body)), *sections[number + 1 :]]
            try:
                found = decompress(codec, checked(*altered))
            except BitgolfError:
                continue
            assert found == documents  # the damage is in padding, or selects a method with the same windows


def lie(whole: bytes, **changes: int) -> bytes:
    """The file with fields of its header changed and a valid checksum."""
    names = (
        ("arithmetic", "window_code", "window", "stride", "rows"),
        ("documents", "tokens", "bytes", "checksums", "lengths"),
    )
    header, coded, end = sections_of(whole)
    changed, known = list[BGZSection](), set(changes)
    for section, own in zip((header, coded), names, strict=True):
        at, fields = 0, dict[str, int]()
        for name in own:
            fields[name], at = read_leb128(section.body, at)
        fields |= {name: value for name, value in changes.items() if name in own}
        known -= set(own)
        changed.append(section._replace(body=b"".join(map(write_leb128, fields.values())) + section.body[at:]))
    assert not known
    return checked(*changed, end)


@pytest.mark.timeout(60)
def test_a_hostile_header_costs_nothing(codec: TextCodec) -> None:
    """It raises an error before memory or time is spent, or when the payload is exhausted."""
    whole = code(codec, [TEXT[:120]], part(SlidingScoring, window=30, stride=10)).data
    assert decompress(codec, lie(whole)) == [TEXT[:120]]
    lies: list[dict[str, Any]] = [
        {"arithmetic": 3}, {"arithmetic": 2}, {"window_code": 9},
        {"window": 0}, {"window": 5}, {"window": 1 << 30}, {"stride": 0}, {"stride": 31}, {"stride": 1 << 30},
        {"rows": 0}, {"rows": 1 << 30}, {"rows": 1 << 13}, {"lengths": 0}, {"lengths": 1 << 20}, {"lengths": 7},
        {"documents": 0}, {"documents": 2}, {"documents": 1 << 34},
        {"tokens": 0}, {"tokens": 1 << 34}, {"tokens": 1 << 20}, {"tokens": 7},
        {"bytes": 0}, {"bytes": 1 << 34}, {"checksums": 0}, {"checksums": 1 << 34}, {"checksums": 3},
        {"documents": 5000, "tokens": 1 << 20}, {"rows": 4096, "window": 1 << 16},
    ]  # fmt: skip
    for changes in lies:
        with pytest.raises(BitgolfError):
            decompress(codec, lie(whole, **changes))


@pytest.mark.timeout(60)
def test_a_payload_is_not_decoded_beyond_what_it_holds(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header specifies too many tokens, and the checksums are valid, as from an attacker with the model."""
    whole = code(codec, [TEXT[:200]], part(SlidingScoring, window=30, stride=10)).data
    steps, real = list[int](), coder.TableChecksums
    monkeypatch.setattr(coder, "TableChecksums", lambda expected=None, hint="": real())
    header, coded, end = sections_of(whole)
    (_, _, size, checksums, length), at = read_numbers(coded.body, 0, 5)
    lengths = encode_lengths(np.array([3_000]))
    numbers = 1, 3_000, size, checksums, len(lengths)
    body = b"".join(map(write_leb128, numbers)) + lengths + coded.body[at + length : -20]
    with pytest.raises(BitgolfError, match=r"more than the .* of the payload"):
        decompress(codec, checked(header, coded._replace(body=body), end), lambda done, bits: steps.append(done))
    assert len(steps) < 500


def test_the_text_itself_is_checked(codec: TextCodec) -> None:
    """The documents are decoded correctly, but the digest in the header is of other documents."""
    header, coded, end = sections_of(code(codec, [b"text"]).data)
    (*_, size), at = read_numbers(coded.body, 0, 5)
    body = bytearray(coded.body)
    body[at + size] ^= 1
    with pytest.raises(BitgolfError, match="not the one that was compressed"):
        decompress(codec, checked(header, coded._replace(body=bytes(body)), end))


def test_contexts_come_from_the_file(codec: TextCodec) -> None:
    data = code(codec, [b"coded with one window"], part(ContiguousScoring, window=8)).data
    assert decompress(codec._replace(methods=(LORA,)), data) == [b"coded with one window"]
