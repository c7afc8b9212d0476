"""`compress` and `decompress`: files of any kind and size, standard streams, and nothing written in case of an error."""

from __future__ import annotations

import io
import json
import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitgolf.artifact.model import load_model
from bitgolf.errors import BitgolfError
from bitgolf.pipeline import coding
from bitgolf.pipeline.coding import CodingJob, compress_file, decompress_file, text_codec
from bitgolf.score.coding import compress, file_blocks
from bitgolf.score.coding.bgz_format import CODED, STORED, read_sections
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.compress import CompressedFile, Encoder
from bitgolf.score.coding.open_predictor import default_method
from helpers.command_line import run_command
from helpers.examples import examples
from helpers.toy_artifact import ToyArtifact, make_toy

NOISE = random.Random(0).randbytes(6000)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"), deviation=0.01)


@pytest.fixture(scope="module")
def artifact(toy: ToyArtifact) -> Path:
    return toy.artifact


@pytest.fixture(scope="module")
def text(toy: ToyArtifact) -> bytes:
    """Text of which a token has about two bytes, so that the model shortens it."""
    return b"\n".join(path.read_bytes() for path in sorted(toy.raw.iterdir()))[:300]


@pytest.fixture(scope="module")
def codec(artifact: Path) -> TextCodec:
    return text_codec(load_model(artifact))


def command(*words: object, status: int = 0) -> str:
    """Run a command. Returns what it prints, errors included."""
    ended = run_command(*map(str, words))
    assert ended.returncode == status, ended.stderr
    return ended.stdout + ended.stderr


def kinds(data: bytes) -> list[bytes]:
    return [section.kind for section in read_sections(io.BytesIO(data), len(data))]


@pytest.mark.parametrize("kind", ["empty", "text", "few", "noise"])
def test_files_of_any_kind_come_back(artifact: Path, text: bytes, tmp_path: Path, kind: str) -> None:
    data = {"empty": b"", "text": text, "few": NOISE[:200], "noise": NOISE}[kind]
    source, coded, back = tmp_path / "in", tmp_path / "coded", tmp_path / "back"
    source.write_bytes(data)
    result = json.loads(run_command("compress", str(artifact), str(source), str(coded), "--native", "--json").stdout)
    assert result["bytes_in"] == len(data) and result["bytes_out"] == coded.stat().st_size <= len(data) + 80
    assert result["bytes_stored"] == (len(data) if kind != "text" else 0)
    assert f"{len(data):,} bytes" in command("decompress", artifact, coded, back)
    assert back.read_bytes() == data


def test_an_empty_file_costs_its_header(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"")
    result = json.loads(
        run_command("compress", str(artifact), str(tmp_path / "in"), str(tmp_path / "out"), "--json").stdout
    )
    assert result["bytes_out"] < 40 and result["bpb_coded"] == result["bpb_predicted"] == 0


def test_what_the_model_cannot_shorten_is_stored_block_by_block(codec: TextCodec, text: bytes) -> None:
    blocks, target = [text[:150], NOISE[:100], text[150:]], io.BytesIO()
    encoder = Encoder(codec, default_method(codec.methods), portable=False)
    sizes = file_blocks.compress_file(encoder, blocks, target)
    assert kinds(target.getvalue())[1:-1] == [CODED, STORED, CODED] and sizes.stored == 100
    assert sizes.bytes_in == len(text) + 100 and sizes.bytes_out == len(target.getvalue())
    assert b"".join(compress.decompress(codec, target.getvalue())) == b"".join(blocks)


class Seen:
    """Collects the progress of a file, in bytes."""

    def __init__(self) -> None:
        self.done = list[int]()

    def __call__(self, done: int, bits: float) -> None:
        self.done.append(done)


def test_the_bytes_do_not_depend_on_the_threads(codec: TextCodec, text: bytes) -> None:
    encoder = Encoder(codec, default_method(codec.methods), portable=False)
    files, blocks = list[bytes](), [text[:100], NOISE[:50], text[100:220], text[220:]]
    for threads in (1, 3):
        target, seen = io.BytesIO(), Seen()
        file_blocks.compress_file(encoder, blocks, target, threads=threads, progress=seen)
        files.append(target.getvalue())
        assert seen.done[-1] == max(seen.done) == len(text) + 50
    assert files[0] == files[1]
    texts = CompressedFile(codec, io.BytesIO(files[0])).texts(threads=3)
    assert [b"".join(documents) for documents in texts] == blocks


def test_an_error_in_one_thread_ends_the_others(codec: TextCodec, text: bytes) -> None:
    encoder, done = Encoder(codec, default_method(codec.methods), portable=False), list[int]()

    def blocks() -> Iterator[bytes]:
        yield text
        yield text
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        file_blocks.compress_file(
            encoder, blocks(), io.BytesIO(), threads=4, progress=lambda size, bits: done.append(size)
        )
    assert max(done, default=0) < len(text), "blocks were coded to their end although the file is given up"


def test_noise_is_stored_without_an_attempt(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take minutes for each megabyte."""
    encoder = Encoder(codec, default_method(codec.methods), portable=False)
    monkeypatch.setattr(encoder, "encode", None)
    assert file_blocks.encode_block(encoder, NOISE)[0].kind == STORED


def test_memory_does_not_depend_on_the_size(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of small blocks, many and few; the model is left out, as its memory depends on rows alone."""
    monkeypatch.setattr(file_blocks, "LEAST_CHECKED", 0)
    encoder, block = Encoder(codec, default_method(codec.methods), portable=False), NOISE[:4000]

    class Discarded(io.RawIOBase):
        def write(self, data: object) -> int:
            return 0

    def peak(count: int) -> int:
        tracemalloc.start()
        file_blocks.compress_file(encoder, (block for _ in range(count)), Discarded())  # pyright: ignore[reportArgumentType]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(400) < peak(4) + 20_000


@settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=4), st.data())
def test_damaged_and_cut_files_are_found_before_anything_is_decoded(
    codec: TextCodec, blocks: list[bytes], data: st.DataObject
) -> None:
    encoder, target = Encoder(codec, default_method(codec.methods), portable=False), io.BytesIO()
    file_blocks.compress_file(encoder, blocks, target)
    assert CompressedFile(codec, target).bytes == sum(map(len, blocks))
    whole = bytearray(target.getvalue())
    at = data.draw(st.integers(0, len(whole) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "append"])):
        case "flip":
            whole[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del whole[at:]
        case "insert":
            whole.insert(at, data.draw(st.integers(0, 255)))
        case _:
            whole += b"\0"
    if bytes(whole) == target.getvalue():
        return
    with pytest.raises(BitgolfError):
        CompressedFile(codec, io.BytesIO(bytes(whole)))


def test_blocks_that_are_missing_exchanged_or_of_another_file_are_found(codec: TextCodec) -> None:
    """Each of them has a right checksum of its own contents."""
    files = list[bytes]()
    for letters in (b"abcd", b"abce"):
        target = io.BytesIO()
        blocks = [bytes([letter]) for letter in letters]
        file_blocks.compress_file(Encoder(codec, default_method(codec.methods), portable=False), blocks, target)
        files.append(target.getvalue())
    (header, *own, end), other = ([data[a:b] for a, b in spans(data)] for data in files)
    for wrong in ([*own[:1], *own[2:]], own[:3], [own[1], own[0], *own[2:]], [*own[:3], other[4]], [*own, own[3]]):
        with pytest.raises(BitgolfError, match="CRC-32"):
            CompressedFile(codec, io.BytesIO(files[0][:4] + header + b"".join(wrong) + end))


def spans(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of each section of a file."""
    at, found = 4, list[tuple[int, int]]()
    for section in read_sections(io.BytesIO(data), len(data)):
        size = len(section.body)
        end = at + 1 + max(1, -(-size.bit_length() // 7)) + size + 4
        found.append((at, end))
        at = end
    return found


def test_a_damaged_file_writes_nothing(artifact: Path, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(text)
    command("compress", artifact, tmp_path / "in", tmp_path / "coded", "--native")
    data = (tmp_path / "coded").read_bytes()
    (tmp_path / "back").write_bytes(b"kept")
    for wrong in (data[:-1], data[:40], data[:-20] + b"x" + data[-19:], b"", b"BGZ", b"PK\3\4" + data):
        (tmp_path / "wrong").write_bytes(wrong)
        said = command("decompress", artifact, tmp_path / "wrong", tmp_path / "back", "--force", status=1)
        assert "wrong" in said and "Traceback" not in said
        assert (tmp_path / "back").read_bytes() == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "coded", "in", "wrong"]


def test_an_existing_file_is_kept_without_force(artifact: Path, tmp_path: Path) -> None:
    source, coded = tmp_path / "in", tmp_path / "coded"
    source.write_bytes(b"a text")
    coded.write_bytes(b"kept")
    assert "--force" in command("compress", artifact, source, coded, status=2)
    assert coded.read_bytes() == b"kept"
    command("compress", artifact, source, coded, "--force", "--native")
    assert "--force" in command("decompress", artifact, coded, source, status=2)
    command("decompress", artifact, coded, source, "--force")
    assert source.read_bytes() == b"a text"


# ---- standard streams ------------------------------------------------------------------------------------------------


class Pipe(io.BytesIO):
    """A stream that cannot be read twice."""

    def seekable(self) -> bool:
        return False


def through_pipes(monkeypatch: pytest.MonkeyPatch, function: object, job: CodingJob, given: bytes) -> bytes:
    """Run a job with a pipe as standard input. Returns what it writes to standard output."""
    output = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(given)))
        patch.setattr(sys, "stdout", io.TextIOWrapper(output, write_through=True))
        assert callable(function)
        function(job)
        return output.getvalue()


def test_standard_input_and_output(artifact: Path, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    job = CodingJob(artifact, coding.STREAM, coding.STREAM, portable=False)
    packed = through_pipes(monkeypatch, compress_file, job, text)
    assert len(packed) < len(text)
    assert through_pipes(monkeypatch, decompress_file, job, packed) == text
    with pytest.raises(BitgolfError, match="cut or damaged"):
        through_pipes(monkeypatch, decompress_file, job, packed[:-1])


def test_a_file_and_json_do_not_share_standard_output(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a")
    for verb in ("compress", "decompress"):
        assert "name a file as OUT" in command(verb, artifact, tmp_path / "in", "-", "--json", status=2)


def test_a_method_is_chosen_by_name(artifact: Path, text: bytes, tmp_path: Path) -> None:
    source, coded = tmp_path / "in", tmp_path / "coded"
    source.write_bytes(text[:100])
    words = "compress", artifact, source, coded, "--native", "--json", "--force"
    result = json.loads(run_command(*map(str, words), "--with", "contiguous", "--set", "window=16").stdout)
    assert result["method"] == "contiguous"
    assert "is not in the artifact" in command(*words, "--with", "sgd", status=2)


def test_it_says_how_long_it_takes(
    artifact: Path, text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coding, "LEAST_ANNOUNCED", 0.0)
    monkeypatch.setattr(coding, "LEAST_MEASURED", 1)
    (tmp_path / "in").write_bytes(text)
    said = command("compress", artifact, tmp_path / "in", tmp_path / "coded", "--native")
    assert "compress: about " in said and "tokens/s" in said
