"""The folder of `to-hf` without transformers, for which a stand-in takes its place: code, weights, tokenizers, card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitgolf
from bitgolf.commands import to_hf as commands
from bitgolf.errors import UsageError
from bitgolf.huggingface.source import modeling_source, tokenization_source
from bitgolf.recipes import get_recipe
from bitgolf.tokens.byte_tokenizer import ByteTokenizer
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer
from bitgolf.tokens.trainers import CaseOpsBPE, SentencePieceBPE
from helpers.byte_level_tokenizers import tiktoken_file_of, train_huggingface
from helpers.command_line import run_command
from helpers.recipe_cover import all_but_exhaustive
from helpers.small_recipes import LENGTH, VOCAB, small_recipe
from helpers.toy import built
from helpers.toy_artifact import ToyArtifact, make_toy
from helpers.transformers_stand_in import execute, load_folder

TEXTS = [b"Once upon a time THERE was a Fox, a fox.\n" * 40, "Füchse 狐 <s>\u2581</s>".encode() * 9]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def folder(toy: ToyArtifact) -> Path:
    done = run_command("to-hf", str(toy.artifact), str(toy.artifact.parent / "hf"), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    made = Path(result["folder"])
    assert result["files"] == {path.name: path.stat().st_size for path in made.iterdir()}
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return load_folder(folder)


def ids_of(model: bitgolf.Model, text: str) -> torch.Tensor:
    return torch.tensor([[model.tokenizer.bos, *model.encode(text).tolist()]])


def test_the_logits_are_those_of_the_artifact(toy: ToyArtifact, loaded: tuple[Any, Any]) -> None:
    own, (model, tokenizer) = bitgolf.load(toy.artifact), loaded
    ids = ids_of(own, "abc ab cde fgh \u2581 é")
    assert (
        tokenizer.build_inputs_with_special_tokens(
            [tokenizer.ids[name] for name in tokenizer._tokenize("abc ab cde fgh \u2581 é")]
        )
        == ids[0].tolist()
    )
    with torch.no_grad():
        made = model(ids)
    assert torch.equal(made.logits[0], own.logits(ids[0])) and made.loss is None
    loss = model(ids, labels=ids).loss
    expected = torch.nn.functional.cross_entropy(made.logits[0, :-1], ids[0, 1:])
    assert torch.allclose(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_decoding_with_a_cache(loaded: tuple[Any, Any]) -> None:
    """Token by token, past the capacity that the cache begins with; then other rows, as beam search asks for."""
    model, _ = loaded
    ids = torch.randint(4, 200, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, cache, found = model(ids).logits, None, list[torch.Tensor]()
        for first, end in [(0, 5), *((i, i + 1) for i in range(5, 24))]:
            given_ids = model.prepare_inputs_for_generation(ids[:, :end], cache=cache, use_cache=True)
            assert given_ids["input_ids"].shape == (2, end - first)
            step = model(**given_ids)
            cache = step.cache
            found.append(step.logits)
        torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=1e-4)
        swapped, more = model._reorder_cache(cache, torch.tensor([1, 1])), torch.tensor([[7], [7]])
        continued = model(more, cache=swapped).logits
        expected = model(torch.cat([ids[[1, 1]], more], 1), logits_to_keep=1).logits
    assert expected.shape[1] == 1
    torch.testing.assert_close(continued, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(loaded: tuple[Any, Any], side: str) -> None:
    model, _ = loaded
    ids = torch.tensor([[1, 9, 8, 7, 6, 5], [1, 50, 60, 70, 80, 90]])
    mask, valid = torch.ones_like(ids), slice(2, 6) if side == "left" else slice(0, 4)
    mask[0] = 0
    mask[0, valid] = 1
    ids[0, valid], ids[0, ~mask[0].bool()] = torch.tensor([1, 9, 8, 7]), 3
    alone = torch.tensor([[1, 9, 8, 7, 11]])
    with torch.no_grad():
        made, cached = model(ids, attention_mask=mask), model(ids, attention_mask=mask, use_cache=True)
        for logits in (made.logits, cached.logits):
            torch.testing.assert_close(logits[0, valid], model(alone[:, :4]).logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logits[1], model(ids[1:]).logits[0], atol=1e-4, rtol=1e-4)
        mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], 1)
        after = model(torch.tensor([[11], [12]]), attention_mask=mask, cache=cached.cache).logits
        torch.testing.assert_close(after[0], model(alone).logits[0, -1:], atol=1e-4, rtol=1e-4)


def serialized(kind: str) -> bytes:
    if kind in ("sentencepiece", "caseops"):
        return {"sentencepiece": SentencePieceBPE, "caseops": CaseOpsBPE}[kind](vocab=300).train(TEXTS)
    if kind == "bytes":
        return ByteTokenizer().serialized
    spec = train_huggingface(TEXTS, 300)
    return json.dumps(spec).encode() if kind == "huggingface" else tiktoken_file_of(spec)


def opened(kind: str, folder: Path) -> tuple[Tokenizer, Any]:
    """A tokenizer of the package, and the class of a folder for it."""
    inner = tokenizer_from_bytes(serialized(kind))
    (folder / kind).write_bytes(inner.serialized)
    return inner, execute(tokenization_source(inner))["BitgolfTokenizer"](vocab_file=str(folder / kind))


@pytest.mark.parametrize("kind", ["sentencepiece", "caseops", "bytes", "huggingface"])
def test_tokenizers_have_the_same_ids(kind: str, tmp_path: Path) -> None:
    inner, tokenizer = opened(kind, tmp_path)
    assert tokenizer.vocab_size == inner.vocab == len(tokenizer.get_vocab())

    @given(st.text() | st.text("abFox ü狐\u2581\ue001<s>\udc80"))
    def check(text: str) -> None:
        names = tokenizer._tokenize(text)
        ids = [tokenizer._convert_token_to_id(name) for name in names]
        data = text.encode("utf-8", "surrogateescape")
        assert ids == inner.encode(data).tolist()
        assert [tokenizer._convert_id_to_token(token) for token in ids] == names
        assert tokenizer.convert_tokens_to_string(names) == data.decode(errors="replace")

    check()
    first = [] if inner.bos < 0 else [inner.bos]
    assert tokenizer.build_inputs_with_special_tokens([5, 6], [7]) == [*first, 5, 6, *first, 7]
    (path,) = tokenizer.save_vocabulary(str(tmp_path), "copy")
    assert Path(path).name == "copy-tokenizer.model" and Path(path).read_bytes() == inner.serialized


@pytest.mark.parametrize("name", all_but_exhaustive(["pr1855"]))
def test_the_code_of_recipes(name: str) -> None:
    """With every part of the recipe, the model of the folder computes what the package computes."""
    spec = small_recipe(get_recipe(name))().model
    own = built(spec, vocab=VOCAB)
    code = execute(modeling_source(spec.to_json()))
    config = code["BitgolfConfig"](bitgolf=spec.to_json(), vocab_size=VOCAB)
    with torch.device("meta"):
        made = code["BitgolfForCausalLM"](config)
    weights = {f"model.{path}": p for path, p in own.named_parameters(remove_duplicate=False)}
    made.load_state_dict(weights, assign=True)
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = own(ids).float(), made.eval()(ids).logits
    assert torch.equal(expected, got)


def test_the_code_is_that_of_the_model_alone(folder: Path) -> None:
    for name in ("modeling_bitgolf.py", "tokenization_bitgolf.py"):
        source = (folder / name).read_text()
        assert "import bitgolf" not in source and "from bitgolf" not in source
    assert (folder / "requirements.txt").read_text().split() == [
        "numpy", "safetensors", "sentencepiece", "torch", "transformers"
    ]  # fmt: skip
    assert "class Trainer" not in (folder / "modeling_bitgolf.py").read_text()


def test_the_card_of_an_artifact_alone(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "No figures were measured" in card and 'from_pretrained("hf", trust_remote_code=True)' in card


def test_the_card_of_a_run_has_its_figures(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "folder_files", lambda loaded: {})
    result = bitgolf.open_run(toy_run).result
    commands.to_hf(toy_run, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    scores = {stage: bpb for stage, bpb in result.bpb.items() if bpb is not None}
    assert scores and all(f"| {stage} | {bpb:.4f} |" in card for stage, bpb in scores.items())
    assert f"| packed artifact with its tokenizer | {result.bytes.self_contained:,} bytes |" in card
    assert f"`{result.recipe}` ({result.hash}), seed {result.seed}" in card and f"{result.params:,}" in card


def test_what_is_refused(toy: ToyArtifact, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    cases: Sequence[tuple[list[str], str]] = [
        ([str(folder)], "there are files already"),
        ([str(toy.artifact)], "there are files already"),
        ([str(tmp_path / "new"), "--private"], "--private: only a repository can be private"),
        ([str(tmp_path / "new"), "--push", "name"], "expected the name of a repository as OWNER/NAME, got 'name'"),
        ([str(tmp_path / "new"), "--push", "a/b/c"], "OWNER/NAME"),
        ([str(tmp_path / "new"), "--push", "a/b"], "--push: there is no token for the hub"),
    ]
    for words, message in cases:
        done = run_command("to-hf", str(toy.artifact), *words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_own_code_is_refused(toy: ToyArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "artifact_requirements", lambda artifact: ["my_parts.py"])
    with pytest.raises(UsageError, match=r"parts of code that is not of this package: my_parts\.py"):
        commands.to_hf(toy.artifact, tmp_path / "new")
    assert not list(tmp_path.iterdir())
