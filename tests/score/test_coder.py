"""Real compression: lossless for any bytes, as small as predicted, and never garbage."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError
from bitgolf.score.coder import HEAD, Codec, compress, decompress
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.stream import Reader
from bitgolf.score.text import Text, with_last_end
from bitgolf.score.windows import Contiguous, Sliding
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.train import SentencePieceBPE
from bitgolf.train.device import choose
from toy import built, toy_model

TEXT = b"".join(b"line %d of a text that repeats itself, and again %d\n" % (i, i * i % 97) for i in range(3000))


@pytest.fixture(scope="module")
def codec() -> Codec:
    tokenizer = Tokenizer(SentencePieceBPE(vocab=300).train([TEXT]))
    model = built(toy_model(), vocab=tokenizer.vocab, noise=0.05)
    return Codec(model, tokenizer, b"12345678", Sliding(window=24, stride=12))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass")))
def test_any_bytes_come_back(codec: Codec, data: bytes) -> None:
    assert decompress(codec, compress(codec, data).data) == data


@pytest.mark.parametrize("data", [b"", b"\0", b"a", b"\xff\xfe\x80", "▁ \U0001f600 é".encode(), bytes(range(256)) * 3])
def test_corner_cases_come_back(codec: Codec, data: bytes) -> None:
    assert decompress(codec, compress(codec, data).data) == data


def test_size_is_what_was_predicted(codec: Codec) -> None:
    data = TEXT[:120_000]
    result = compress(codec, data)
    assert len(data) >= 100_000
    assert 0 <= 8 * len(result.data) - result.bits < 0.005 * result.bits
    assert decompress(codec, result.data) == data


def test_predicted_bits_are_those_of_the_sliding_window(codec: Codec) -> None:
    """One lane reads the contexts that the referee's plain sliding window shows."""
    data = TEXT[:3000]
    ids = codec.tokenizer.encode(data)
    stream = with_last_end(np.array([1, *ids]), 1)[:-1]  # a file's end is in the header, not coded
    plain = score(StaticPlayer(codec.model, codec.tokenizer.vocab, choose()), Text(stream, len(data)), codec.method)
    assert compress(codec, data).bits == pytest.approx(plain.bits, rel=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 1), (7, 3), (40, 40)])
def test_the_reader_sees_what_the_window_shows(window: int, stride: int) -> None:
    model = built(toy_model())
    ids = torch.randint(2, 64, (3, 40))
    ids[:, 0] = 1
    reader = Reader(model, 3, window, stride)
    for w in Sliding(window=window, stride=stride).windows(39):
        logits = model(ids[:, w.start : w.stop])
        for t in range(w.first, w.stop):
            assert (reader.logits - logits[:, t - w.start]).abs().max() < 1e-4
            reader.push(ids[:, t + 1])


def test_another_model_is_refused(codec: Codec) -> None:
    data = compress(codec, b"some text").data
    with pytest.raises(BitgolfError, match="another model"):
        decompress(codec._replace(digest=b"87654321"), data)


def test_other_arithmetic_is_noticed(codec: Codec) -> None:
    """The same digest, but a model that computes otherwise: an error, not garbage."""
    data = compress(codec, b"some text").data
    other = built(toy_model(), vocab=codec.tokenizer.vocab, noise=0.05, seed=5)
    with pytest.raises(BitgolfError, match="computes other probabilities"):
        decompress(codec._replace(model=other), data)


def test_a_damaged_file_is_never_decoded_into_garbage(codec: Codec) -> None:
    whole = compress(codec, TEXT[:2000]).data
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


def test_a_hostile_header_costs_nothing(codec: Codec) -> None:
    """Lies with a right checksum: refused before memory or time is spent, or found out by the text's own hash."""
    import struct
    import zlib

    whole = compress(codec, TEXT[:500]).data
    fields, payload = list(HEAD.unpack(whole[: HEAD.size])), whole[HEAD.size + 4 :]
    lies = [
        (2, 0),
        (2, 65535),
        (3, 0),
        (3, 1 << 31),
        (4, 0),
        (5, 1 << 60),
        (6, 1 << 60),
        (6, 3),
        (5, 3),
        (8, b"x" * 16),
        (9, b"xxxx"),
    ]
    for place, value in lies:
        head = HEAD.pack(*fields[:place], value, *fields[place + 1 :])
        with pytest.raises(BitgolfError):
            decompress(codec, head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload)


def test_contexts_come_from_the_file_not_from_the_reader(codec: Codec) -> None:
    data = compress(codec, b"coded with one window").data
    assert decompress(codec._replace(method=Contiguous(window=8)), data) == b"coded with one window"
