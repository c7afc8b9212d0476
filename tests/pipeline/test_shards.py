"""Runs, scores and proofs on folders of shards: those of `data make`, and published ones with their tokenizers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgolf.data.shards import find_shards, read_shard, write_shard
from bitgolf.files import read_json, write_json
from bitgolf.pipeline.scoring import _round_trip
from bitgolf.pipeline.stages import stage_named
from bitgolf.pipeline.state import Run, open_run
from bitgolf.report.log import RunLog
from bitgolf.score.text import TokenizedText, append_final_bos
from bitgolf.text.documents import read_documents
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from helpers.command_line import run_command
from helpers.toy import toy_recipe

CASEOPS = "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved"


def bitgolf(*words: str | Path, code: int = 0) -> str:
    """Run the command in this process; returns standard output, or standard error if `code` is not 0."""
    done = run_command(*map(str, words))
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.json"
    write_json(path, toy_recipe(steps=8).to_json())
    return path


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that `data make` wrote from the beginnings of the texts of case 14."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "texts").mkdir()
    for path in (shared / "cases" / "14" / "A").iterdir():
        (folder / "texts" / path.name).write_bytes(path.read_bytes()[:400])
    bitgolf("data", "make", folder / "D", "--text", folder / "texts", "--vocab", "300")
    return folder / "D"


@pytest.fixture(scope="module")
def finished(made: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder, result) of case 27: `run --shards` on a folder of `data make`."""
    out = tmp_path_factory.mktemp("runs") / "R"
    return out, json.loads(bitgolf("run", recipe_file, "--shards", made, "--out", out, "--json"))


def test_shards_of_data_make_are_trained_scored_and_restored(
    finished: tuple[Path, dict[str, Any]], made: Path, tmp_path: Path
) -> None:
    out, result = finished
    assert result["roundtrip"]["restored"] is True and (out / "report.html").exists()
    manifest = read_json(made / "manifest.json")
    assert result["held_out"] == {
        "documents": manifest["val"]["documents"],
        "tokens": manifest["val"]["tokens"],
        "bytes": manifest["val"]["raw_bytes"],
        "sidecar_bytes": None,
    }
    assert result["roundtrip"]["general_compressors_bytes"] == manifest["val"]["raw_bytes"]
    for data in (made, out / "data"):
        scored = json.loads(bitgolf("score", out, "--shards", data, "--json"))
        assert scored["bpb"] == pytest.approx(result["bpb"]["sliding"], rel=1e-9)
    proof = json.loads(bitgolf("compress", out, "--proof", tmp_path / "proof", "--shards", made, "--json"))
    assert proof["verified"] is True and proof["bytes"] == manifest["val"]["raw_bytes"]


def test_a_second_call_reads_no_shard_and_a_touched_one_is_read_again(
    finished: tuple[Path, dict[str, Any]], made: Path
) -> None:
    again = run_command("run", str(finished[0])).stderr
    assert "prepare: unchanged, reused" in again and "MB/s" not in again
    prepare, run = stage_named("prepare"), open_run(finished[0], RunLog(quiet=True))
    path = find_shards(made, "train")[0]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not prepare.unchanged(run)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare.unchanged(run)


def test_changed_shards_are_named_before_training(made: Path, recipe_file: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made, tmp_path / "D"))
    path = find_shards(data, "train")[0]
    ids = np.array(read_shard(path))
    ids[5] += 1
    write_shard(path, ids)
    error = bitgolf("run", recipe_file, "--shards", data, "--out", tmp_path / "R", code=1)
    assert "has changed since its manifest was written" in error and str(path) in error and "hint" in error
    assert not (tmp_path / "R" / "checkpoint").exists() and not (tmp_path / "R" / "data").exists()
    ids[5] = 60_000
    write_shard(path, ids)
    error = bitgolf("run", recipe_file, "--shards", data, "--out", tmp_path / "R", code=1)
    assert "token 5 has the id 60,000" in error and "Traceback" not in error


def test_wrong_options_change_nothing(made: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "R"
    alone = bitgolf("run", recipe_file, "--tokenizer", made / "tokenizer.model", "--out", out, code=2)
    assert "--tokenizer has no effect without --shards" in alone
    missing = bitgolf("run", recipe_file, "--shards", made, "--tokenizer", tmp_path / "none", "--out", out, code=2)
    assert "there is no such file" in missing
    nowhere = bitgolf("run", recipe_file, "--shards", tmp_path / "nowhere", "--out", out, code=2)
    assert "there is no such folder" in nowhere
    data = Path(shutil.copytree(made, tmp_path / "D", ignore=shutil.ignore_patterns("*.model", "*.fp", "*.json")))
    assert "the folder has no tokenizer" in bitgolf("run", recipe_file, "--out", out, "--shards", data, code=2)
    checked = json.loads(bitgolf("data", "check", data, "--tokenizer", made / "tokenizer.model", "--json"))
    assert checked["passes"] and [f["rule"] for f in checked["findings"]] == ["no-manifest"]
    assert not out.exists()


# ---- published shards -----------------------------------------------------------------------------------------------


def write_published(folder: Path, tokenizer: Tokenizer, texts: Sequence[bytes], split: str, *, sidecar: bool) -> None:
    """Write documents in the published layout, as SentencePiece's own encoding has them, in two shards."""
    folder.mkdir(exist_ok=True)
    ids = np.concatenate([[tokenizer.bos, *tokenizer.encode_normalised(text)[0]] for text in texts])
    counts = tokenizer.count_bytes(ids)
    counts[-1] += 1  # as if the encoder had removed a byte
    for i, part in enumerate(np.array_split(np.arange(len(ids)), 2)):
        write_shard(folder / f"fineweb_{split}_{i:06d}.bin", ids[part])
        if sidecar:
            write_shard(folder / f"fineweb_{split}_bytes_{i:06d}.bin", counts[part])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fineweb_1024_bpe", pytest.param(CASEOPS, marks=pytest.mark.exhaustive)])
def test_published_shards_are_trained_scored_and_proven(
    name: str, shared: Path, recipe_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / f"{name}.model"
    model.write_bytes((shared / "data" / "tokenizers" / model.name).read_bytes())
    tokenizer, out, data = tokenizer_from_bytes(model.read_bytes()), tmp_path / "run", tmp_path / "shards"
    documents = read_documents([shared / "data" / "english.val.jsonl.zst"])
    texts = [
        document.data[: 200 if i < 4 else 600].rpartition(b" ")[0] for i, document in enumerate(islice(documents, 40))
    ]
    write_published(data, tokenizer, texts[4:], "train", sidecar=False)
    write_published(data, tokenizer, texts[:4], "val", sidecar=name == CASEOPS)
    size = sum(len(tokenizer.decode(tokenizer.encode_normalised(text)[0])) for text in texts[:4])

    refused = bitgolf("run", recipe_file, "--shards", data, "--out", out, code=2)
    assert "the folder has no tokenizer" in refused and "--tokenizer FILE" in refused
    given = ("--shards", data, "--tokenizer", model, "--json")
    result = json.loads(bitgolf("run", recipe_file, *given, "--out", out))
    sidecar = size + 1 if name == CASEOPS else None
    assert (result["held_out"]["bytes"], result["held_out"]["sidecar_bytes"]) == (size, sidecar)
    assert result["roundtrip"]["restored"] is True
    log = (out / "log.jsonl").read_text()
    assert (f"counts {size + 1:,} bytes, the tokens decode to {size:,}" in log) == (name == CASEOPS)
    scored = json.loads(bitgolf("score", out, *given))
    assert scored["bpb"] == pytest.approx(result["bpb"]["sliding"], rel=1e-9) and scored["sidecar_bytes"] == sidecar
    proof = json.loads(bitgolf("compress", out, "--proof", tmp_path / "proof", *given))
    assert proof["verified"] is True and proof["bytes"] == size
    again = run_command("run", str(out))
    assert again.returncode == 0 and "prepare: unchanged, reused" in again.stderr


def test_shards_of_another_tokenizer_are_not_scored(
    finished: tuple[Path, dict[str, Any]], shared: Path, tmp_path: Path
) -> None:
    model = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array([1, 5, 6]))
    error = bitgolf("score", finished[0], "--shards", tmp_path, "--tokenizer", model, code=2)
    assert "the shards were made with the tokenizer" in error
    error = bitgolf("score", finished[0], "--shards", tmp_path, code=2)
    assert "--tokenizer FILE" in error


def test_a_text_that_tokens_do_not_determine_has_no_round_trip(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = (shared / "data" / "tokenizers" / "fineweb_2048_bpe_no_byte_fallback.model").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tokenizer.model").write_bytes(model)
    tokens = append_final_bos(np.array([1, 400, 401]), 1)
    assert _round_trip(Run(toy_recipe(), tmp_path, RunLog()), TokenizedText(tokens, 5)) is None
    assert "no compression round trip: the tokenizer has no byte fallback" in capsys.readouterr().err
