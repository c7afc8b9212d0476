"""The arithmetic of a compressed file: stated in its header, chosen by an option, and refused where it cannot be."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.pack.frequency_tables import write_leb128
from bitgolf.portable.frequencies import TOTAL, dyadic_probabilities, integer_weights
from bitgolf.score.coding import bgz_format
from bitgolf.score.coding.arithmetic import machine_fingerprint
from bitgolf.score.coding.bgz_format import HEADER, BGZSection, SectionWriter, read_sections
from bitgolf.score.coding.coded_text import CATEGORICAL, TextCodec, _stream
from bitgolf.score.coding.compress import compress, decompress
from helpers.examples import examples
from helpers.portable_fixture import DOCUMENTS, FORMER, FORMER_LORA, LORA, METHOD, coded, fixture_codec


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return fixture_codec()._replace(methods=(LORA,))


def native(codec: TextCodec) -> bytes:
    documents = codec.tokenizer.encode_documents(DOCUMENTS[:2])
    return compress(codec, documents, method=METHOD, portable=False).data


def former_file(body: bytes, version: int) -> bytes:
    """A file of format 3 or 4 with a valid checksum."""
    return b"BGZ" + bytes([version]) + zlib.crc32(body).to_bytes(4, "little") + body


ARITHMETIC_AT = 6
"""Place of the arithmetic in a file: after the magic number, and kind and size of the header."""


def flipped(codec: TextCodec) -> TextCodec:
    """The same codec with another weight."""
    other = fixture_codec().model
    with torch.no_grad():
        other.embed.weight[5, 3] += 0.5
    return codec._replace(model=other)


def test_native_and_portable_files_come_back(codec: TextCodec) -> None:
    assert coded(codec)[ARITHMETIC_AT] == 1 and decompress(codec, coded(codec)) == DOCUMENTS
    assert native(codec)[ARITHMETIC_AT] == 0 and decompress(codec, native(codec)) == DOCUMENTS[:2]


def test_sizes_of_both_are_the_same_within_a_thousandth(codec: TextCodec) -> None:
    documents = codec.tokenizer.encode_documents(DOCUMENTS * 4)
    files = [compress(codec, documents, method=METHOD, portable=portable) for portable in (False, True)]
    assert files[1].bits == pytest.approx(files[0].bits, rel=1e-5)
    payloads = [len(file.data) for file in files]
    assert abs(payloads[1] - payloads[0]) < 60 + 0.001 * payloads[0]


def test_portable_is_the_default_except_for_methods_that_adapt(codec: TextCodec) -> None:
    documents = codec.tokenizer.encode_documents(DOCUMENTS[:1])
    assert compress(codec, documents, method=METHOD).arithmetic == "portable-1"
    assert compress(codec, documents, method=LORA).arithmetic == "native"
    with pytest.raises(UsageError, match="'lora' updates weights, and portable arithmetic has no gradients") as refused:
        compress(codec, documents, method=LORA, portable=True)
    assert refused.value.where == "--portable"


def test_files_of_former_formats_are_read(codec: TextCodec) -> None:
    assert decompress(codec, FORMER.read_bytes()) == DOCUMENTS
    damaged = bytearray(FORMER.read_bytes())
    for at in range(4, len(damaged), 3):
        damaged[at] ^= 16
        with pytest.raises(BitgolfError):
            decompress(codec, bytes(damaged))
        damaged[at] ^= 16


def test_native_files_of_former_formats_are_read_on_the_same_machine(codec: TextCodec) -> None:
    """Version 3 has neither the number of the arithmetic nor a fingerprint."""
    whole = FORMER_LORA.read_bytes()
    length = whole[9]
    if whole[10 : 10 + length].decode() != machine_fingerprint():
        pytest.skip(f"the fixture was made with {whole[10 : 10 + length].decode()}")
    older = former_file(whole[10 + length :], 3)
    assert decompress(codec, whole) == DOCUMENTS == decompress(codec, older)
    with pytest.raises(BitgolfError, match="computes other probabilities") as other:
        decompress(flipped(codec), older)
    assert "same torch version" in str(other.value)


def test_the_message_names_the_machine_of_a_native_file(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgz_format, "machine_fingerprint", lambda: "torch 9.9, riscv64, RVV")
    whole = native(codec)
    with pytest.raises(BitgolfError, match="computes other probabilities") as other:
        decompress(flipped(codec), whole)
    assert "torch 9.9, riscv64, RVV" in str(other.value) and "--portable" in str(other.value)
    with pytest.raises(BitgolfError, match="the model or the file was changed"):
        decompress(flipped(codec), coded(codec))


@pytest.mark.parametrize(
    "start",
    [write_leb128(2), write_leb128(1 << 40), write_leb128(0) + write_leb128(1 << 30), b"\0\5a\0bcd", b"\0\2\xff\xfe"],
)
def test_a_hostile_arithmetic_is_refused(codec: TextCodec, start: bytes) -> None:
    whole = io.BytesIO(coded(codec))
    header, *others = read_sections(whole, len(whole.getvalue()))
    target = io.BytesIO()
    writer = SectionWriter(target)
    for section in (BGZSection(HEADER, start + header.body[1:]), *others):
        writer.add(section)
    with pytest.raises(CorruptFileError):
        decompress(codec, target.getvalue())


# ---- integers -------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(100))
@given(st.integers(1, 300), st.integers(0, 999), st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
def test_weights_are_integers_that_add_up(vocab: int, seed: int, sharpness: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, vocab)) * sharpness
    probabilities = torch.softmax(torch.from_numpy(logits), -1).float().numpy()
    weights = integer_weights(probabilities)
    assert (weights.sum(1) == TOTAL).all() and (weights >= 0).all()
    assert (np.abs(weights / TOTAL - probabilities).max(1) <= (vocab + 2) / TOTAL).all()
    tables = dyadic_probabilities(probabilities)
    assert (tables.astype(np.float64) * TOTAL == weights).all()


def cost(tables: Any, symbols: Any) -> float:
    encoder = _stream.queue.RangeEncoder()
    encoder.encode(symbols, CATEGORICAL, tables)
    assert (_stream.queue.RangeDecoder(encoder.get_compressed()).decode(CATEGORICAL, tables) == symbols).all()
    return encoder.num_bits()


def test_integer_tables_cost_what_the_probabilities_say() -> None:
    """Also with tokens whose weight is 0."""
    chance = np.random.default_rng(0)
    probabilities = torch.softmax(torch.from_numpy(chance.normal(size=(3000, 500)) * 6), -1).float().numpy()
    symbols = np.array([chance.choice(500, p=p / p.sum()) for p in probabilities.astype(np.float64)], np.int32)
    symbols[:5] = probabilities[:5].argmin(1)
    before, after = cost(probabilities, symbols), cost(dyadic_probabilities(probabilities), symbols)
    assert after == pytest.approx(before, rel=1e-3)
