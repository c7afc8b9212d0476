"""For each kind of tokenizer: raw text and shards have the same score, and compression is lossless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.artifact.model import LoadedArtifact, load_model, write_model
from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare_data
from bitgolf.data.verify import verify_data
from bitgolf.model.decoding.generate import generate
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.encoding import encode_model
from bitgolf.runtime.device import Device
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.compress import compress, decompress
from bitgolf.score.coding.file_blocks import split_block
from bitgolf.score.coding.open_predictor import default_method
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, load_validation, tokenize_documents
from bitgolf.text.documents import Document
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import ByteLevel, CaseOpsBPE, SentencePieceBPE, TokenizerFile, TokenizerTrainer
from helpers.byte_level_tokenizers import tiktoken_file_of, train_huggingface
from helpers.toy import toy_recipe

CPU = Device(torch.device("cpu"), torch.float32, "a test")
SENTENCES = [b"The Captain of the %s, Mr. McAllister, SAID nothing on day %d.\n" % (b"HMS Orion" if i % 3 else b"ship", i)
             for i in range(120)]  # fmt: skip
TRICKY = ["\ue001 ESC\ue004\ue002x \u2581 iPhone".encode(), b"", b"\xff\xee\x80", b"\x81Bad \xed\xa0\x80"]
KINDS: dict[str, Spec[Any]] = {
    "sentencepiece": part(SentencePieceBPE, vocab=330),
    "bytes": part(ByteLevel),
    "caseops": part(CaseOpsBPE, vocab=330),
}
FILES = ["huggingface", "tiktoken"]
HELD_OUT = [*SENTENCES[:8], *TRICKY]


@pytest.fixture(scope="module", params=[*KINDS, *FILES])
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spec[TokenizerTrainer]:
    if request.param in KINDS:
        return KINDS[request.param]
    path, spec = tmp_path_factory.mktemp("tokenizer") / "file", train_huggingface(SENTENCES[8:], vocab=330)
    path.write_bytes(json.dumps(spec).encode() if request.param == "huggingface" else tiktoken_file_of(spec))
    return part(TokenizerFile, path=str(path), vocab=330, pattern="gpt2" if request.param == "tiktoken" else "")


@pytest.fixture(scope="module")
def folder(tokens: Spec[TokenizerTrainer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 100 tokens, so that documents and case operators cross shard ends."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = tokenizer_from_bytes(tokens().train(SENTENCES[8:]))
    train, held_out = ([Document(f"{i}", d) for i, d in enumerate(side)] for side in (SENTENCES[8:], HELD_OUT))
    prepare_data(train, held_out, tokenizer, folder, shard_tokens=100)
    return folder


@pytest.fixture(scope="module")
def loaded(tokens: Spec[TokenizerTrainer], folder: Path) -> LoadedArtifact:
    """An artifact with this tokenizer, loaded from its file."""
    proto = (folder / "tokenizer.model").read_bytes()
    recipe = toy_recipe().set("tokens", tokens)
    torch.manual_seed(0)
    model = recipe().model(BuildContext(vocab=tokenizer_from_bytes(proto).vocab))
    weights = {path: p.detach() + 0.1 * torch.randn_like(p) for path, p in model.named_parameters()}
    write_model(folder / "artifact.bg", recipe, encode_model(weights, parameter_roles(model), recipe().quantize), proto)
    return load_model(folder / "artifact.bg")


def test_an_artifact_brings_its_tokenizer(loaded: LoadedArtifact, folder: Path) -> None:
    tokenizer = tokenizer_from_bytes((folder / "tokenizer.model").read_bytes())
    assert type(loaded.tokenizer) is type(tokenizer) and loaded.tokenizer.digest == tokenizer.digest
    assert load_manifest(folder).tokenizer == tokenizer.digest


def test_raw_text_and_shards_have_one_score(loaded: LoadedArtifact, folder: Path) -> None:
    raw, shards = tokenize_documents(HELD_OUT, loaded.tokenizer), load_validation(folder)
    assert raw.tokens.tolist() == shards.tokens.tolist()
    assert raw.bytes == shards.bytes == sum(map(len, HELD_OUT))
    for method in (spec() for spec in loaded.recipe.score):
        scores = [score(StaticPlayer(loaded.model, loaded.tokenizer.vocab, CPU), text, method) for text in (raw, shards)]  # fmt: skip
        assert scores[0].bits == scores[1].bits > 0
        assert (scores[0].bpb, scores[0].targets) == (scores[1].bpb, scores[1].targets)


def test_each_document_has_the_bytes_that_its_tokens_tell(loaded: LoadedArtifact, folder: Path) -> None:
    text: TokenizedText = load_validation(folder)
    told = loaded.tokenizer.count_bytes(text.tokens)
    assert [int(told[start : stop + 1].sum()) for start, stop in text.documents()] == [len(d) for d in HELD_OUT]


def test_check_counts_the_bytes_again(tokens: Spec[TokenizerTrainer], folder: Path, tmp_path: Path) -> None:
    """Also if the stream is counted in several chunks."""
    assert verify_data(folder) == []
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    said = (copy / "manifest.json").read_text()
    count = load_manifest(folder).val.encoded_bytes
    (copy / "manifest.json").write_text(said.replace(f'"encoded_bytes": {count}', f'"encoded_bytes": {count + 3}'))
    assert {f.rule for f in verify_data(copy)} == {"counts"}


def test_blocks_are_cut_where_documents_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one token, and counts of no more ids than these tokenizers have."""
    monkeypatch.setattr("bitgolf.data.scan._BLOCK_TOKENS", 1)
    monkeypatch.setattr("bitgolf.data.scan._IDS", 512)
    assert verify_data(folder) == []


def test_files_come_back(loaded: LoadedArtifact) -> None:
    codec = TextCodec(loaded.model, loaded.tokenizer, loaded.digest, loaded.recipe.score)
    data = SENTENCES[0] + b"".join(TRICKY)
    documents = split_block(codec, data, 64)
    assert documents
    coded = compress(codec, documents, method=default_method(codec.methods))
    assert b"".join(decompress(codec, coded.data)) == data


def test_tokens_of_a_shard_are_those_of_the_document(loaded: LoadedArtifact, folder: Path) -> None:
    text = load_validation(folder)
    documents = np.split(text.tokens, np.flatnonzero(text.tokens == text.bos))[1:-1]
    assert [loaded.tokenizer.decode(d) for d in documents] == HELD_OUT


def test_what_a_model_makes_up_is_readable(loaded: LoadedArtifact) -> None:
    """An untrained model generates case operators anywhere; the text still begins with the prompt."""
    drawn = generate(
        loaded.model, loaded.tokenizer, b"The Ship", tokens=30, temperature=1.0, top_k=0, seed=1, window=32
    )
    assert loaded.tokenizer.decode_lenient(drawn).startswith(b"The Ship")
