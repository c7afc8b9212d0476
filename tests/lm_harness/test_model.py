"""The model `bitgolf` of lm-evaluation-harness: its interface with a stand-in, and the harness itself where installed."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import bitgolf
from bitgolf.config.spec import part
from bitgolf.errors import UsageError
from bitgolf.score.methods import ContiguousScoring
from helpers.toy_artifact import ToyArtifact, make_toy

TEXT = "abc ab cde fgh, \u2581é and more of it, with line\nbreaks. " * 3


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def model(toy: ToyArtifact) -> bitgolf.Model:
    return bitgolf.load(toy.artifact)


class _Base:
    def __init__(self) -> None:
        self.cached = list[Any]()
        self.cache_hook = SimpleNamespace(add_partial=lambda *row: self.cached.append(row))


@pytest.fixture(scope="module")
def harness_class() -> Iterator[Callable[..., Any]]:
    """The class that is registered, with a stand-in for the harness."""
    registered, name = dict[str, Any](), "bitgolf.lm_harness.model"

    def register_model(kind: str) -> Callable[[Any], Any]:
        return lambda cls: registered.setdefault(kind, cls)

    modules = {f"lm_eval{below}": ModuleType("lm_eval") for below in ("", ".api", ".api.model", ".api.registry")}
    vars(modules["lm_eval.api.model"]).update(LM=_Base)
    vars(modules["lm_eval.api.registry"]).update(register_model=register_model)
    with pytest.MonkeyPatch.context() as patch:
        for path, module in modules.items():
            patch.setitem(sys.modules, path, module)
        patch.delitem(sys.modules, name, raising=False)
        import_module(name)
        yield registered["bitgolf"]
        sys.modules.pop(name)


@pytest.fixture
def harness(harness_class: Callable[..., Any], toy: ToyArtifact) -> Any:
    return harness_class(artifact=str(toy.artifact), device="cpu", max_length=16, batch_size=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_device_that_the_harness_passes_by_default_need_not_exist(harness_class: Any, toy: ToyArtifact) -> None:
    assert harness_class(artifact=str(toy.artifact), device="cuda:0", max_length=16).max_length == 16
    with pytest.raises(bitgolf.BitgolfError, match="cuda:1"):
        harness_class(artifact=str(toy.artifact), device="cuda:1", max_length=16)


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def log_probs(model: bitgolf.Model, before: list[int], tokens: list[int]) -> torch.Tensor:
    """By the logits of all tokens, one text at a time."""
    rows = model.logits([*before, *tokens])[len(before) - 1 : -1].double().log_softmax(-1)
    return rows.gather(1, torch.tensor(tokens)[:, None])[:, 0]


def test_continuations_are_scored_by_the_logits(model: bitgolf.Model) -> None:
    bos = model.tokenizer.bos
    pairs = [([bos], [5, 6, 7]), ([bos, 9], [8]), ([bos, *range(20, 60)], [60, 61]), ([7], [7])]
    for batch in (1, 8, 10_000):
        for (before, tokens), score in zip(pairs, model.continuations(pairs, batch=batch), strict=True):
            assert score.log_prob == pytest.approx(float(log_probs(model, before, tokens).sum()), abs=1e-4)
            assert not score.is_greedy
    likeliest = int(model.logits([bos, 9])[-1].argmax())
    assert model.continuations([([bos, 9], [likeliest])])[0].is_greedy
    other = int(model.logits([bos, 9, likeliest])[-1].argmin())
    assert not model.continuations([([bos, 9], [likeliest, other])])[0].is_greedy
    assert model.continuations([]) == []
    for pair in (([], [5]), ([bos], [])):
        with pytest.raises(UsageError, match="at least one token"):
            model.continuations([pair])


def test_contexts_and_continuations(harness: Any, model: bitgolf.Model) -> None:
    bos = model.tokenizer.bos
    asked = requests(
        ("", "abc de"), ("abc ", "de"), ("abc", " de"), ("abc", ""), ("abc " * 30, "fgh"), ("a", "b " * 30)
    )
    scores = harness.loglikelihood(asked)
    whole = model.encode("abc de").tolist()
    known = len(model.encode("abc"))
    assert scores[0][0] == pytest.approx(float(log_probs(model, [bos], whole).sum()), abs=1e-4)
    assert scores[1] == scores[2] and scores[3] == (0.0, True)
    assert scores[2][0] == pytest.approx(float(log_probs(model, [bos, *whole[:known]], whole[known:]).sum()), abs=1e-4)
    long = model.encode("abc " * 30 + "fgh").tolist()
    start = len(model.encode(("abc " * 30).rstrip()))
    tokens = long[start:]
    kept = [bos, *long[:start]][-(17 - len(tokens)) :]
    assert scores[4][0] == pytest.approx(float(log_probs(model, kept, tokens).sum()), abs=1e-4)
    assert math.isfinite(scores[5][0])
    assert [row[0] for row in harness.cached] == ["loglikelihood"] * 6


def test_whole_texts_have_the_score_of_the_referee_but_for_their_end(harness: Any, model: bitgolf.Model) -> None:
    texts = [TEXT, "", "a"]
    found = harness.loglikelihood_rolling(requests(*((text,) for text in texts)))
    assert found[1] == 0.0 and len(harness.cached) == 3
    ids, size = [model.tokenizer.bos, *model.encode(TEXT).tolist()], 16
    assert len(ids) > 2 * size
    expected = 0.0
    for first in range(1, len(ids), size):
        end = min(first + size, len(ids))
        expected += float(log_probs(model, ids[max(0, end - 1 - size) : first], ids[first:end]).sum())
    assert found[0] == pytest.approx(expected, abs=1e-3)
    harness.max_length = 4096
    (whole,) = harness.loglikelihood_rolling(requests((TEXT,)))
    ending = float(log_probs(model, ids, [model.tokenizer.bos]))
    bpb = -(whole + ending) / math.log(2) / len(TEXT.encode())
    scored = model.bpb(TEXT, method=part(ContiguousScoring, window=4096), progress=False)
    assert bpb == pytest.approx(scored, abs=1e-5)


def test_generation_ends_at_a_stop(harness: Any, model: bitgolf.Model) -> None:
    whole = model.generate("abc", tokens=30, temperature=0)[len("abc") :]
    (text,) = harness.generate_until(requests(("abc", {"max_gen_toks": 30})))
    assert text == whole and len(text) > 3
    stop = text[len(text) // 2]
    stopped = harness.generate_until(requests(("abc", {"max_gen_toks": 30, "until": ["\0never", stop]})))
    assert stopped == [whole.split(stop)[0]]
    assert harness.generate_until(requests(("abc", {"max_gen_toks": 30, "until": stop}))) == stopped
    drawn = requests(("abc", {"max_gen_toks": 9, "do_sample": True, "temperature": 2.0, "seed": 3}))
    assert harness.generate_until(drawn) == [model.generate("abc", tokens=9, temperature=2.0, seed=3)[3:]]


def test_settings_out_of_range(harness_class: Callable[..., Any], toy: ToyArtifact) -> None:
    with pytest.raises(UsageError, match="batch_tokens=-1"):
        harness_class(artifact=str(toy.artifact), batch_tokens=-1)
    with pytest.raises(UsageError, match="no artifact"):
        harness_class(artifact="nowhere")


def test_the_command_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "bitgolf.lm_harness.model", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'bitgolf\[lm-eval\]'"):
        runpy.run_module("bitgolf.lm_harness", run_name="__main__", alter_sys=False)


TASKS = {
    "pairs": """
task: pairs
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/pairs.jsonl}}
validation_split: validation
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}]
""",
    "questions": """
task: questions
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/questions.jsonl}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices.index(answer)}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "text": """
task: text
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/text.jsonl}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "writing": """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/writing.jsonl}}
validation_split: validation
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\0"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra `lm-eval`")
def test_the_harness_itself(toy: ToyArtifact, model: bitgolf.Model, tmp_path: Path) -> None:
    answer = model.generate("abc", tokens=8, temperature=0)[len("abc") :]
    rows: dict[str, list[dict[str, Any]]] = {
        "pairs": [{"good": a, "bad": b} for a, b in [("abc ab", "abc xx"), ("cde", "zzzz"), ("qq", "ab ab")]],
        "questions": [{"question": "abc?", "choices": ["ab", "cde fgh"], "answer": "ab"}] * 2,
        "text": [{"text": TEXT}, {"text": "abc é"}],
        "writing": [{"prompt": "abc", "answer": answer}, {"prompt": "abc", "answer": "something else"}],
    }
    for name, documents in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
        (tmp_path / f"{name}.yaml").write_text(TASKS[name].replace("FOLDER", str(tmp_path)))
    command = [
        sys.executable, "-m", "bitgolf.lm_harness", "run", "--model", "bitgolf",
        "--model_args", f"artifact={toy.artifact},max_length=4096",
        "--tasks", ",".join(rows), "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out.json"),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("out*.json")
    found = json.loads(file.read_text())["results"]

    def total(text: str) -> float:
        ids = model.encode(text).tolist()
        return float(log_probs(model, [model.tokenizer.bos], ids).sum())

    correct = [total(row["good"]) > total(row["bad"]) for row in rows["pairs"]]
    assert found["pairs"]["acc,none"] == pytest.approx(sum(correct) / 3)
    assert found["questions"]["acc,none"] in (0.0, 1.0)
    size = sum(len(row["text"].encode()) for row in rows["text"])
    bits = -sum(total(row["text"]) for row in rows["text"]) / math.log(2)
    assert found["text"]["bits_per_byte,none"] == pytest.approx(bits / size, abs=1e-4)
    assert found["writing"]["exact_match,none"] == 0.5
