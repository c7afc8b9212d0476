"""Preparation of a text in two passes: the same files as from lists, for any number of processes, also after a stop."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.data import shard_output, survey
from bitgolf.data.prepare import TextPreparation, prepare_data, prepare_text
from bitgolf.data.verify import verify_data
from bitgolf.errors import BitgolfError
from bitgolf.runtime.ordered_map import InProcess, LocalProcesses
from bitgolf.text.documents import Document, ReadReport, TextSource, train_validation_split
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import ByteLevel, SentencePieceBPE, TokenizerTrainer
from helpers.command_line import run_command
from helpers.examples import examples


class ListedText(TextSource):
    """Documents of a list. stop_at: number of documents after which reading fails, in the pass number `stop_pass`."""

    def __init__(self, texts: list[bytes], stop_pass: int = 0, stop_at: int = 0) -> None:
        self.texts, self.stop_pass, self.stop_at, self.passes = texts, stop_pass, stop_at, 0

    def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
        self.passes += report is not None  # readings for the tokenizer's check have no report
        for i, text in enumerate(self.texts):
            if report and self.passes == self.stop_pass and i == self.stop_at:
                raise KeyboardInterrupt
            yield Document(str(i), text)

    def cache_key(self) -> list[Any]:
        return ["listed"]


class GivenTokenizer(TokenizerTrainer):
    """A tokenizer that exists. trained: how often it was asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.trained = tokenizer, 0

    def train(self, documents: Any, report: Any = None) -> bytes:
        self.trained += 1
        return self.tokenizer.serialized


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def from_lists(texts: list[bytes], trainer: TokenizerTrainer, folder: Path, **options: Any) -> dict[str, bytes]:
    """The files that the definition gives: split the list, train on the training documents, encode both sides."""
    train, val = train_validation_split([Document(str(i), text) for i, text in enumerate(texts)], 0.3)
    prepare_data(train, val, tokenizer_from_bytes(trainer.train(d.data for d in train)), folder, **options)
    return contents(folder)


VARIANTS = st.sampled_from([b"a b", b"a  b", b" a b", b"a\nb", b"c", b"c\n"])
texts = st.lists(st.binary(min_size=1, max_size=30) | VARIANTS, min_size=2, max_size=30).filter(
    lambda texts: len({tuple(text.split()) for text in texts}) > 1
)


@settings(deadline=None, max_examples=examples(40))
@given(texts, st.integers(1, 100), st.integers(1, 40))
def test_two_passes_give_the_files_of_the_definition(data: list[bytes], batch: int, shard_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey.document_batches, "__defaults__", (batch,))
        text = TextPreparation(ListedText(data), ByteLevel(), "bytes", 0.3, shard_tokens=shard_tokens)
        manifest, _, report = prepare_text(text, Path(name, "two"))
        assert contents(Path(name, "two")) == from_lists(
            data, ByteLevel(), Path(name, "one"), shard_tokens=shard_tokens
        )
        assert report.duplicates == len(data) - len(set(data)) and verify_data(Path(name, "two")) == []
        assert manifest.train.documents + manifest.val.documents == len(set(data))


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_the_sample_has_no_held_out_text_when_a_split_would_be_empty(tmp_path: Path, fraction: float) -> None:
    """Then the limit is known only after the first pass, and the sample is drawn by another one."""
    data = [b"some words of text number %d " % i * 40 for i in range(20)]
    seen: list[bytes] = []

    class Listening(SentencePieceBPE):
        def train(self, documents: Any, report: Any = None) -> bytes:
            seen.extend(documents)
            return super().train(seen, report)

    prepare_text(TextPreparation(ListedText(data), Listening(vocab=300), "x", fraction), tmp_path)
    train, val = train_validation_split([Document("", text) for text in data], fraction)
    assert min(len(train), len(val)) == 1
    assert sorted(seen) == sorted(document.data for document in train)


def test_a_tokenizer_is_trained_on_the_distinct_training_documents(tmp_path: Path) -> None:
    data = [b"def function_%d(argument):\n    return argument + %d\n" % (i % 90, i % 7) * 30 for i in range(200)]
    trainer = SentencePieceBPE(vocab=300, sample_bytes=30_000)
    prepare_text(TextPreparation(ListedText(data), trainer, "x", 0.3), tmp_path / "two")
    assert contents(tmp_path / "two") == from_lists(data, trainer, tmp_path / "one")


@pytest.mark.slow
def test_processes_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey.document_batches, "__defaults__", (2000,))
    data = [b"a line of text, number %d of all\n" % i * (i % 9 + 1) for i in range(500)]
    trainer = SentencePieceBPE(vocab=300, sample_bytes=20_000)
    with LocalProcesses(2) as workers:
        text = TextPreparation(ListedText(data), trainer, "x", 0.3, workers, shard_tokens=700)
        prepare_text(text, tmp_path / "two")
    assert contents(tmp_path / "two") == from_lists(data, trainer, tmp_path / "one", shard_tokens=700)


@pytest.mark.cluster
def test_a_ray_cluster_gives_the_same_files(tmp_path: Path) -> None:
    ray_clusters = pytest.importorskip("ray.cluster_utils", reason="needs the extra `cluster`")
    file = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": f"line {i} of the text, {i * 7919 % 10007}\n" * 50}) for i in range(1500)]
    file.write_text("\n".join(rows))
    words = ["--text", str(file), "--vocab", "300"]
    subprocess.run(command(str(tmp_path / "local"), *words), check=True, capture_output=True)
    cluster = ray_clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        cluster_words = command(str(tmp_path / "ray"), *words, "--cluster", str(cluster.address))
        done = subprocess.run(cluster_words, check=True, capture_output=True, text=True)
    finally:
        cluster.shutdown()
    assert "tokenized by a Ray cluster with 2 cores" in done.stderr
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


# ---- stopped and continued -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=examples(40))
@given(st.integers(1, 2), st.integers(0, 59), st.integers(0, 59), st.integers(1, 60), st.booleans())
def test_a_stopped_preparation_continues(
    stop_pass: int, first: int, second: int, shard_tokens: int, often: bool
) -> None:
    data = [b"%d words" % (i % 50) for i in range(60)]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey.document_batches, "__defaults__", (40,))
        patch.setattr(shard_output, "CHECKPOINT_SECONDS", -1.0 if often else 1e9)
        wanted = from_lists(data, ByteLevel(), Path(name, "one"), shard_tokens=shard_tokens)
        for source in (ListedText(data, stop_pass, first), ListedText(data, 1, second)):
            with pytest.raises(KeyboardInterrupt):
                prepare_text(
                    TextPreparation(source, ByteLevel(), "x", 0.3, shard_tokens=shard_tokens), Path(name, "two")
                )
        text = TextPreparation(ListedText(data), ByteLevel(), "x", 0.3, shard_tokens=shard_tokens)
        prepare_text(text, Path(name, "two"))
        assert contents(Path(name, "two")) == wanted


def test_what_is_done_is_not_done_again(
    tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    class Counting(InProcess):
        def map(self, function: Any, items: Any) -> Any:
            for item in items:
                encoded.append(
                    sum(map(len, item.documents if hasattr(item, "documents") else (*item.train, *item.val)))
                )
                yield function(item)

    data = [b"%d words of a document" % i for i in range(100)]
    monkeypatch.setattr(survey.document_batches, "__defaults__", (40,))
    monkeypatch.setattr(shard_output, "CHECKPOINT_SECONDS", -1.0)
    trainer = GivenTokenizer(small_tokenizer)
    with pytest.raises(KeyboardInterrupt):
        prepare_text(TextPreparation(ListedText(data, 2, 70), trainer, "x", workers=Counting()), tmp_path)
    before = sum(encoded)
    encoded.clear()
    source = ListedText(data)
    prepare_text(TextPreparation(source, trainer, "x", workers=Counting()), tmp_path)
    assert before + sum(encoded) == 2 * sum(map(len, data)), "each document is surveyed once and encoded once"
    assert source.passes == 1 and trainer.trained == 1
    assert not (tmp_path / "unfinished").exists()


def test_other_settings_begin_again(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    data = [b"%d words" % i for i in range(40)]
    with pytest.raises(KeyboardInterrupt):
        prepare_text(TextPreparation(ListedText(data, 2, 30), ByteLevel(), "bytes"), tmp_path)
    prepare_text(TextPreparation(ListedText(data), GivenTokenizer(small_tokenizer), "given"), tmp_path)
    assert verify_data(tmp_path) == []
    assert (tmp_path / "tokenizer.model").read_bytes() == small_tokenizer.serialized


def test_an_error_of_the_first_pass_leaves_finished_data_as_they_are(tmp_path: Path) -> None:
    data = [b"%d words" % i for i in range(40)]
    prepare_text(TextPreparation(ListedText(data), ByteLevel(), "x"), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BitgolfError, match="1 distinct documents"):
        prepare_text(TextPreparation(ListedText([b"a", b"a\n"]), ByteLevel(), "x"), tmp_path)
    assert before == contents(tmp_path)


@pytest.mark.parametrize("change", [b"", b"one more"])
def test_a_text_that_changes_between_the_passes_is_an_error(tmp_path: Path, change: bytes) -> None:
    class Changing(ListedText):
        def documents(self, report: ReadReport | None = None) -> Iterator[Document]:
            yield from super().documents(report)
            if report and self.passes == 1:
                self.texts = [*self.texts, change] if change else self.texts[:-1]

    source = Changing([b"%d words" % i for i in range(40)])
    with pytest.raises(BitgolfError, match="the text changed while it was read"):
        prepare_text(TextPreparation(source, ByteLevel(), "x"), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


# ---- the command -----------------------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bitgolf", "data", "make", *words]


def make_data(*words: str) -> None:
    """Run the command in the process of the tests."""
    done = run_command("data", "make", *words, "--processes", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_command_continues_and_leaves_no_process(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": f"line {i} of the text, {i * 7919 % 10007}\n" * 50}) for i in range(1500)]
    file.write_text("\n".join(rows))
    words = ["--text", str(file), "--vocab", "300", "--held-out", "0.1"]
    make_data(str(tmp_path / "whole"), *words)
    process = subprocess.Popen(command(str(tmp_path / "killed"), *words, "--processes", "2"), stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "killed" / "unfinished" / "train.part").exists())
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    wait_for(lambda: not any(alive(child) for child in children))
    assert not (tmp_path / "killed" / "manifest.json").exists()
    make_data(str(tmp_path / "killed"), *words)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_standard_input_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b"".join(b'{"text": "line %d of the text"}\n' % i for i in range(50))
    (tmp_path / "a.jsonl").write_bytes(rows)
    piped = command(str(tmp_path / "piped"), "--kind", "bytes", "--text", "-")
    subprocess.run(piped, check=True, capture_output=True, input=rows)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows)))
    make_data(str(tmp_path / "piped again"), "--kind", "bytes", "--text", "-")
    make_data(str(tmp_path / "file"), "--kind", "bytes", "--text", str(tmp_path / "a.jsonl"))
    assert contents(tmp_path / "piped") == contents(tmp_path / "piped again") == contents(tmp_path / "file")
    assert not list(tmp_path.glob("*/unfinished"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


MEASURE = """
import resource, sys
from pathlib import Path
from bitgolf.commands.data import make_shards
make_shards(Path(sys.argv[1]), [Path(sys.argv[2])], 300, None, 0.05, "bytes")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (3, 30):
        file = tmp_path / f"{megabytes}.txt"
        with file.open("wb") as handle:
            for i in range(megabytes * 50):
                handle.write(b"".join(b"%d line of text\n" % (i * 1000 + j) for j in range(1000)))
        run = [sys.executable, "-c", MEASURE, str(tmp_path / f"out{megabytes}"), str(file)]
        found = subprocess.run(
            run, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        peaks.append(int(found.stdout) / 1000)
    assert peaks[1] - peaks[0] < 10, f"peak memory {peaks} MB for texts of 3 and 30 MB"
