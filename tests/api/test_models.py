"""A packed model in Python: the figures are those of the commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bitgolf
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.methods import ContiguousScoring
from helpers.command_line import run_command
from helpers.torch_state import torch_state
from helpers.toy import toy_recipe
from helpers.toy_artifact import ToyArtifact, make_toy

LORA = part(DocumentLoRA, window=32, stride=16, rows=8)
CONTIGUOUS = part(ContiguousScoring, window=16)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def model(toy: ToyArtifact) -> bitgolf.Model:
    return bitgolf.load(toy.artifact)


def command(*words: object) -> Any:
    done = run_command(*map(str, words), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_a_score_is_that_of_the_command(toy: ToyArtifact, model: bitgolf.Model) -> None:
    printed = command("score", toy.artifact, "--text", toy.raw)
    assert model.bpb(toy.raw) == printed["bpb"] == model.score(toy.raw)[-1].bpb
    documents = [path.read_bytes() for path in sorted(toy.raw.iterdir())]
    assert model.bpb(documents) == model.bpb([text.decode() for text in documents]) == printed["bpb"]
    assert [result.bpb for result in model.score(shards=toy.shards)] == [m["bpb"] for m in printed["methods"]]
    assert model.bpb(sorted(toy.raw.iterdir())) == printed["bpb"]


def test_a_text_in_memory_is_cut_like_a_file(model: bitgolf.Model, tmp_path: Path) -> None:
    text = "".join(f"line {i % 7} of a text of more than 64 KiB\n" for i in range(2500))
    (tmp_path / "file.txt").write_text(text)
    printed = command("score", model.path, "--text", tmp_path / "file.txt", "--with", "contiguous")
    found = model.score(text, methods="contiguous")[0]
    assert (found.bits, found.targets, found.bytes) == (printed["bits"], printed["targets"], len(text))
    assert found.bpb != model.bpb([text], method="contiguous"), "a list is one document"


def test_methods_are_names_or_parts(toy: ToyArtifact, model: bitgolf.Model) -> None:
    assert [result.method for result in model.score(toy.raw)] == ["contiguous", "sliding"]
    assert [result.method for result in model.score(toy.raw, methods=["sliding", CONTIGUOUS])] == [
        "sliding",
        "contiguous",
    ]
    printed = command("score", toy.artifact, "--text", toy.raw, "--with", "contiguous", "--set", "window=16")
    assert model.bpb(toy.raw, method=CONTIGUOUS) == printed["bpb"] != model.bpb(toy.raw, method="contiguous")
    with pytest.raises(UsageError, match="there is no method 'slidding'"):
        model.bpb(toy.raw, method="slidding")


def test_options_of_a_score(toy: ToyArtifact, model: bitgolf.Model, tmp_path: Path) -> None:
    printed = command("score", toy.artifact, "--text", toy.raw, "--order", "shuffled", "--seed", 3, "--batch", 64)
    found = model.score(toy.raw, order="shuffled", seed=3, batch=64)[-1]
    assert (found.bpb, found.order, found.batch_tokens) == (printed["bpb"], "shuffled", 64)
    record = json.dumps({"text": "other", "body": "one document"})
    (tmp_path / "a.jsonl").write_text(record + "\n")
    assert model.score(tmp_path / "a.jsonl", key="body")[0].bytes == len("one document")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, here: model.bpb(""), "there is no text to score"),
        (lambda model, here: model.bpb([]), "there is no text to score"),
        (lambda model, here: model.bpb(["", b""]), "there is no text to score"),
        (lambda model, here: model.bpb(str(here)), "the text is the name of a file"),
        (lambda model, here: model.bpb([str(here), str(here)]), "the text is the name of a file"),
        (lambda model, here: model.bpb([here, "text"]), "either documents or paths"),
        (lambda model, here: model.bpb(here / "missing"), "no such file"),
        (lambda model, here: model.bpb(3), "expected bytes, got int"),
        (lambda model, here: model.bpb("\ud800"), "without UTF-8 form"),
        (lambda model, here: model.score(), "exactly one of text and shards, got neither"),
        (lambda model, here: model.score("text", shards=here), "exactly one of text and shards, got both"),
        (lambda model, here: model.score("text", key="body"), "no effect on a text in memory"),
        (lambda model, here: model.score("text", seed=1), "no effect: it applies to --order shuffled"),
        (lambda model, here: model.compress("text"), "expected bytes, got str"),
        (lambda model, here: model.generate(tokens=-1), "tokens must be at least 0"),
        (lambda model, here: model.generate(temperature=float("nan")), "temperature must be at least 0"),
        (lambda model, here: model.logits([]), "there are no tokens"),
        (lambda model, here: model.logits([[1, 2]]), "an array of shape"),
        (lambda model, here: model.logits([0.5]), "type float64"),
        (lambda model, here: model.logits([-1]), "-1 is not a token"),
        (lambda model, here: model.decode([295]), "295 is not a token: ids are 0 to 294"),
        (lambda model, here: bitgolf.load(here), "there is no artifact"),
        (lambda model, here: bitgolf.load(here / "missing.bg"), "there is no artifact"),
        (lambda model, here: bitgolf.load(model.path, device="tpu"), "unknown device 'tpu'"),
        (lambda model, here: bitgolf.open_run(here), "not the folder of a run"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(
    call: Callable[[Any, Path], object], message: str, model: bitgolf.Model, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        call(model, tmp_path)
    assert message in str(error.value)


# ---- text and logits ------------------------------------------------------------------------------------------------


def test_a_generated_text_is_that_of_the_command(model: bitgolf.Model) -> None:
    printed = command("generate", model.path, "--prompt", "abc é", "--tokens", 30, "--seed", 4, "--top", 20)
    settings: dict[str, Any] = {"tokens": 30, "seed": 4, "top_k": 20}
    assert model.generate("abc é", **settings) == printed["text"]
    pieces = list(model.stream("abc é".encode(), **settings))
    assert "".join(pieces) == printed["text"] and len(pieces) > 3
    assert model.generate("abc", tokens=0) == "abc"


def test_logits_are_those_of_incremental_decoding(model: bitgolf.Model) -> None:
    ids = [model.tokenizer.bos, *model.encode("the text of a document").tolist()][:30]
    logits = model.logits(ids)
    assert logits.shape == (len(ids), 295) and logits.dtype == torch.float32 and not logits.requires_grad
    decoder = IncrementalDecoder(model._model, 1, 32, 16)
    rows = [decoder.logits[0]]
    for token in ids[1:]:
        decoder.step(torch.tensor([token]))
        rows.append(decoder.logits[0])
    assert torch.allclose(logits, torch.stack(rows), atol=1e-4)
    assert torch.equal(logits, model.logits(torch.tensor(ids))) and torch.equal(logits, model.logits(np.array(ids)))


def test_token_ids_are_text_and_back(model: bitgolf.Model) -> None:
    ids = model.encode("abc é")
    assert model.decode(ids) == "abc é" and model.decode(ids.tolist()) == "abc é"
    assert model.tokenizer.decode(model.tokenizer.encode(b"\xff\x00")) == b"\xff\x00"


# ---- compression ----------------------------------------------------------------------------------------------------


def test_compressed_bytes_are_the_file_of_the_command(model: bitgolf.Model, tmp_path: Path) -> None:
    data = b"a text, and bytes that are no text: \xff\x00\x01"
    (tmp_path / "file").write_bytes(data)
    command("compress", model.path, tmp_path / "file", tmp_path / "file.bgz")
    packed = model.compress(data)
    assert packed == (tmp_path / "file.bgz").read_bytes()
    assert model.decompress((tmp_path / "file.bgz").read_bytes()) == data
    (tmp_path / "own.bgz").write_bytes(packed)
    command("decompress", model.path, tmp_path / "own.bgz", tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == data
    assert model.decompress(model.compress(b"")) == b"" and model.decompress(model.compress(memoryview(data))) == data


def test_damaged_data_is_never_restored(model: bitgolf.Model) -> None:
    packed = model.compress(b"some text")
    with pytest.raises(CorruptFileError):
        model.decompress(packed[:-1] + bytes([packed[-1] ^ 1]))
    with pytest.raises(CorruptFileError):
        model.decompress(b"")


# ---- what a model knows of itself -----------------------------------------------------------------------------------


def test_the_ledger_sums_to_the_file(model: bitgolf.Model) -> None:
    printed = command("ledger", model.path)
    assert [entry._asdict() for entry in model.ledger] == printed["entries"]
    assert model.bytes == printed["total"] == model.path.stat().st_size == sum(model.ledger.columns["bytes"])
    assert "tokenizer" in repr(model.ledger)
    assert repr(model) == f"Model({str(model.path)!r}: toy, {model.params:,} parameters, {model.bytes:,} bytes)"
    assert model.recipe.model["dim"] == 32


def test_two_models_do_not_affect_each_other(toy: ToyArtifact, tmp_path: Path) -> None:
    wider = make_toy(tmp_path, toy_recipe().set("model.dim", 48))
    alone = [
        (m.bpb("a text"), m.generate("a", tokens=5), m.compress(b"a text"))
        for m in map(bitgolf.load, (toy.artifact, wider.artifact))
    ]
    first, second = bitgolf.load(toy.artifact), bitgolf.load(str(wider.artifact))
    streams = first.stream("a", tokens=5), second.stream("a", tokens=5)
    assert (first.bpb("a text"), second.bpb("a text")) == (alone[0][0], alone[1][0])
    assert ("".join(streams[0]), "".join(streams[1])) == (alone[0][1], alone[1][1])
    assert first.decompress(first.compress(b"a text")) == b"a text" and second.compress(b"a text") == alone[1][2]
    with pytest.raises(BitgolfError, match="another model"):
        second.decompress(alone[0][2])


# ---- the program around it ------------------------------------------------------------------------------------------


def test_a_model_leaves_the_state_of_torch_as_it_was(model: bitgolf.Model) -> None:
    torch.rand(3)
    weights = {path: p.clone() for path, p in model._model.named_parameters()}
    before, threads = torch_state(), set(threading.enumerate())
    model.score("a text to adapt to " * 20, methods=[LORA, "mixed"])
    model.decompress(model.compress(b"a text"))
    model.generate("a", tokens=5)
    model.logits([1, 2, 3])
    assert torch_state() == before and set(threading.enumerate()) == threads
    assert all(torch.equal(p, weights[path]) and not p.requires_grad for path, p in model._model.named_parameters())


@contextmanager
def other_defaults() -> Iterator[None]:
    """Settings of torch that a program may have made for its own work."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            before = torch_state()
            yield
            assert torch_state() == before
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_settings_of_the_program_change_no_figure(toy: ToyArtifact, model: bitgolf.Model) -> None:
    text = "a text to adapt to " * 20
    with other_defaults():
        loaded = bitgolf.load(toy.artifact)
        figures = loaded.bpb(text), loaded.bpb(text, method=LORA)
        made = loaded.generate("a", tokens=5), loaded.compress(b"a text"), loaded.logits([1, 2, 3])
    assert figures == (model.bpb(text), model.bpb(text, method=LORA))
    assert made[:2] == (model.generate("a", tokens=5), model.compress(b"a text"))
    assert torch.equal(made[2], model.logits([1, 2, 3])) and made[2].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_that_scores_on_a_gpu_generates_and_compresses_as_on_a_cpu(toy: ToyArtifact) -> None:
    cpu, gpu = bitgolf.load(toy.artifact, device="cpu"), bitgolf.load(toy.artifact, device="cuda")
    assert gpu.bpb(toy.raw) == pytest.approx(cpu.bpb(toy.raw), rel=0.01)
    assert "CPU" not in gpu.score(toy.raw)[0].device
    assert gpu.logits([1, 2, 3]).device.type == "cpu"
    assert torch.allclose(gpu.logits([1, 2, 3]), cpu.logits([1, 2, 3]), atol=1e-3)
    assert gpu.generate("a", tokens=5) == cpu.generate("a", tokens=5)
    assert gpu.compress(b"a text") == cpu.compress(b"a text")
