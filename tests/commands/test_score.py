"""`bitgolf score`: the same score on raw text and on shards, methods by name, gain, document order, progress."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitgolf.artifact.model import load_model
from bitgolf.cli import app, artifacts
from bitgolf.commands.artifacts import ScoreResult, SourceText, score_artifact
from bitgolf.commands.tables import run_table, score_table
from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import load_manifest
from bitgolf.errors import RecipeError, UsageError
from bitgolf.model.attention.rope_scaling import NTKScaling
from bitgolf.report.progress import Progress
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.method_selection import methods_by_name, select_methods
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import Score
from bitgolf.score.referee import score as referee_score
from bitgolf.score.result import MethodResult
from bitgolf.score.text import TokenizedText, load_validation
from bitgolf.text.read_report import ReadOptions
from helpers.toy import toy_recipe
from helpers.toy_artifact import ToyArtifact, make_toy
from helpers.toy_run import run_toy

OWN: tuple[Spec[ScoringMethod], ...] = (part(ContiguousScoring, window=32), part(SlidingScoring, window=32, stride=16))
LORA: Spec[ScoringMethod] = part(DocumentLoRA, window=32, stride=16, rows=8)
SGD: Spec[ScoringMethod] = part(StreamSGD, window=32, stride=16, chunk=200)
KEYS = {
    "method", "bits", "bytes", "targets", "tokens_read", "seconds", "order_bits", "bpb", "adapts", "bpb_without_adaptation",
    "gain", "window", "stride", "targets_per_second", "targets_per_token_read", "cross_document", "order", "processes",
    "warnings", "device", "kernels", "batch_tokens", "compile_seconds", "time_limit_seconds", "forecast_seconds",
    "breakdown",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


def on_shards(toy: ToyArtifact, *names: str, **words: Any) -> ScoreResult:
    return score_artifact(toy.artifact, SourceText(shards=toy.shards), methods=names, **words)


# ---- sources of text ----------------------------------------------------------------------------------------------


def test_raw_text_and_shards_have_one_answer(toy: ToyArtifact) -> None:
    """The scores are equal bit for bit."""
    shards, raw = on_shards(toy), score_artifact(toy.artifact, SourceText((toy.raw,)))
    files = [path.read_bytes() for path in sorted(toy.raw.iterdir())]
    for a, b in zip(shards.methods, raw.methods, strict=True):
        keys = ("bits", "bytes", "targets", "tokens_read", "bpb")
        assert [getattr(a, k) for k in keys] == [getattr(b, k) for k in keys]
    manifest = load_manifest(toy.shards)
    assert raw.bytes == sum(map(len, files)) and type(raw.bytes) is int
    assert raw.targets == manifest.val.tokens, (
        "targets are all tokens but the first BOS, plus the end of the last document"
    )


def test_the_document_has_the_keys_of_the_design(toy: ToyArtifact, capsys: pytest.CaptureFixture[str]) -> None:
    words: dict[str, Any] = dict.fromkeys(("order", "seed")) | {
        "text": [],
        "methods": [],
        "sets": [],
        "batch": 64,
        "processes": 1,
    }
    artifacts.score(toy.artifact, shards=toy.shards, as_json=True, **words)
    d = json.loads(capsys.readouterr().out)
    assert d.keys() == KEYS | {"methods", "sidecar_bytes"} and [m["method"] for m in d["methods"]] == [
        "contiguous",
        "sliding",
    ]
    assert {key: d[key] for key in KEYS} == d["methods"][-1], "the top-level keys are those of the last method"
    assert d["bpb"] == d["bits"] / d["bytes"] and d["bpb_without_adaptation"] is d["gain"] is None and not d["adapts"]
    assert d["targets_per_token_read"] == d["targets"] / d["tokens_read"] == pytest.approx(0.5, abs=0.02)
    assert d["targets_per_second"] == d["targets"] / d["seconds"]
    assert (d["window"], d["stride"], d["cross_document"], d["order"]) == (32, 16, True, "corpus")


def test_every_option_of_the_command_arrives(toy: ToyArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    document, received = on_shards(toy), dict[str, Any]()
    monkeypatch.setattr(
        "bitgolf.commands.artifacts.score_artifact",
        lambda *words, **options: received.update(options, words=words) or document,
    )
    words = "score a.bg --shards b --with sgd --with lora --set window=8 --order shuffled --seed 3 --batch 9 --processes 2 --device cpu --key body --skip-null --strict --tokenizer t"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0 and "targets/s" in done.output and "sliding" in done.output
    assert received == {
        "words": (Path("a.bg"), SourceText([], Path("b"), ReadOptions("body", skip_null=True, strict=True), Path("t"))), "methods": ["sgd", "lora"], "edits": ["window=8"], "order": "shuffled", "seed": 3,
        "batch": 9, "processes": 2, "device": "cpu",
    }  # fmt: skip


def test_the_key_of_records_is_read(toy: ToyArtifact, tmp_path: Path) -> None:
    texts = [path.read_text() for path in sorted(toy.raw.iterdir())]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": "another", "body": text}) + "\n" for text in texts))
    wanted = score_artifact(toy.artifact, SourceText((toy.raw,)))
    found = score_artifact(toy.artifact, SourceText((file,), reading=ReadOptions("body")))
    assert (found.bits, found.bytes) == (wanted.bits, wanted.bytes)
    with pytest.raises(UsageError, match="--key body: options of reading text have no effect with --shards"):
        score_artifact(toy.artifact, SourceText(shards=toy.shards, reading=ReadOptions("body")))


def test_one_source_of_text(toy: ToyArtifact) -> None:
    for text, shards in (((), None), ((toy.raw,), toy.shards)):
        with pytest.raises(UsageError, match="exactly one of --text and --shards"):
            score_artifact(toy.artifact, SourceText(text, shards))


def test_a_batch_bounds_what_is_read_at_once_and_changes_nothing_else(
    toy: ToyArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitgolf.score.player import StaticPlayer

    sizes, predict = list[int](), StaticPlayer.predict
    monkeypatch.setattr(StaticPlayer, "predict", lambda s, b: (sizes.append(b.tokens.numel()), predict(s, b))[1])
    small = on_shards(toy, batch=100)
    assert 32 < max(sizes) <= 100
    large = on_shards(toy, batch=10_000)
    assert max(sizes) > 1000 and small.bits == pytest.approx(large.bits, rel=1e-5)


# ---- methods by name -----------------------------------------------------------------------------------------------


def test_every_method_has_a_name_and_the_help_says_it() -> None:
    found = methods_by_name()
    assert {"contiguous", "sliding", "lora", "sgd", "phased"} <= found.keys()
    assert all(issubclass(cls, ScoringMethod) and cls.name == name for name, cls in found.items())
    assert artifacts.score.__doc__ and all(name in artifacts.score.__doc__ for name in found)


def test_names_stand_for_the_recipes_methods_or_read_as_its_last_does() -> None:
    assert select_methods(OWN, (), ()) == list(OWN)
    assert select_methods(OWN, ("sliding", "contiguous"), ()) == [OWN[1], OWN[0]]
    assert select_methods((*OWN, OWN[1].replace(stride=4)), ("sliding",), ()) == [OWN[1], OWN[1].replace(stride=4)]
    (phased,) = select_methods((*OWN, OWN[1].replace(window=64, stride=4)), ("phased",), ())
    assert (phased["lora.window"], phased["lora.stride"]) == (64, 4)
    scaling = part(NTKScaling, original_length=16, length=32)
    (scaled,) = select_methods((OWN[1].replace(rope_scaling=scaling),), ("contiguous",), ())
    assert scaled["rope_scaling"] == scaling
    with pytest.raises(UsageError, match="no method 'sliced'") as error:
        select_methods(OWN, ("sliced",), ())
    assert "sliding" in error.value.hint and "adapt" in error.value.hint


def test_adapt_is_what_adapts_in_the_recipe_or_else_adapters() -> None:
    assert select_methods((*OWN, SGD, LORA), ("adapt",), ()) == [SGD, LORA]
    (only,) = select_methods(OWN, ("adapt",), ())
    assert (only.cls, only["window"], only["stride"]) == (DocumentLoRA, 32, 16)


def test_edits_change_every_method_that_has_the_setting() -> None:
    edited = select_methods(OWN, (), ("window=64", "stride=8"))
    assert edited == [part(ContiguousScoring, window=64), part(SlidingScoring, window=64, stride=8)]
    (scaled,) = select_methods(OWN, ("contiguous",), ("rope_scaling=NTKScaling(original_length=16, length=32)",))
    assert scaled["rope_scaling.original_length"] == 16
    with pytest.raises(UsageError, match="no method here has the setting 'stide'") as error:
        select_methods(OWN, (), ("stide=8",))
    assert "stride" in error.value.hint
    with pytest.raises(RecipeError):
        select_methods(OWN, (), ("window=wide",))


# ---- gain, order, progress -----------------------------------------------------------------------------------------


def test_gain_is_that_over_the_same_windows_and_the_model_comes_back(toy: ToyArtifact) -> None:
    loaded, text = load_model(toy.artifact), load_validation(toy.shards)
    vocab = loaded.tokenizer.vocab

    def row(method: Spec[ScoringMethod]) -> MethodResult:
        return evaluate_method(ScoringContext(loaded.model, vocab, text, select_device()), method)

    before = row(OWN[1])
    for method in (LORA, SGD):
        found, baseline = row(method), method().without_adaptation()
        assert baseline
        with closing(baseline().make_player(loaded.model, vocab, select_device(), SINGLE_PROCESS)) as player:
            bpb = referee_score(player, text, baseline()).bpb
        assert found.bpb_without_adaptation == bpb and found.gain == bpb - found.bpb > 0.01 and found.adapts
        assert row(OWN[1]).bits == before.bits, "the weights must be restored"
        assert found.cross_document == (method is not LORA)


def test_the_baseline_can_be_left_out(toy: ToyArtifact) -> None:
    loaded, text = load_model(toy.artifact), load_validation(toy.shards)
    context = ScoringContext(loaded.model, loaded.tokenizer.vocab, text, select_device())
    alone, both = evaluate_method(context, LORA, baseline=False), evaluate_method(context, LORA)
    assert alone.bpb_without_adaptation is alone.gain is None and alone.bpb == both.bpb
    assert both.gain and len(context.scores) == 1, "only the baseline is cached"


def test_the_same_windows_are_scored_once(toy: ToyArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline of a gain is not scored again. Methods with other windows and methods that adapt are."""
    played = list[str]()

    def watched(player: Any, text: TokenizedText, method: ScoringMethod, **words: Any) -> Score:
        played.append(method.name)
        return referee_score(player, text, method, **words)

    monkeypatch.setattr("bitgolf.score.evaluate.score", watched)
    rows = on_shards(toy, "sliding", "mixed", "mixed", "lora").methods
    assert played == ["sliding", "mixed", "mixed", "sliding", "lora"]
    assert rows[0].bpb == rows[1].bpb_without_adaptation != rows[3].bpb_without_adaptation


def test_a_player_is_closed_also_where_scoring_fails(toy: ToyArtifact) -> None:
    loaded, text = load_model(toy.artifact), load_validation(toy.shards)

    def interrupt(progress: Progress) -> None:
        done = progress.details[-1].partition(" of ")[0]
        if progress.stage == "score sgd" and int(done) > 2 * SGD["chunk"]:  # two chunks were trained on
            raise KeyboardInterrupt

    weights = {path: p.clone() for path, p in loaded.model.named_parameters()}
    with pytest.raises(KeyboardInterrupt):
        words = loaded.model, loaded.tokenizer.vocab, text, select_device()
        evaluate_method(ScoringContext(*words, show=interrupt), SGD)
    assert all((p == weights[path]).all() for path, p in loaded.model.named_parameters())


def test_an_order_by_length_says_so_and_is_charged(toy: ToyArtifact) -> None:
    free, longest = on_shards(toy, "contiguous"), on_shards(toy, "contiguous", order="longest")
    assert (free.order, free.order_bits, longest.order) == ("corpus", 0, "longest")
    assert longest.order_bits > 8
    assert longest.bpb == (longest.bits + longest.order_bits) / longest.bytes
    assert f"{longest.order_bits} bits" in score_table(longest) and "added for the order" in score_table(longest)
    assert "added for the order" not in score_table(free)
    shuffles = [on_shards(toy, "contiguous", order="shuffled", seed=seed).bits for seed in (0, 0, 1)]
    assert shuffles[0] == shuffles[1] != shuffles[2] and free.bits not in shuffles
    isolated = [on_shards(toy, edits=("isolated=true",), order=order).bits for order in (None, "longest", "shuffled")]
    assert isolated == pytest.approx([isolated[0]] * 3, rel=1e-6)


def test_a_method_may_ask_for_an_order_of_its_own_and_the_command_decides(toy: ToyArtifact) -> None:
    from bitgolf.score.document_order import LongestFirstOrder, ShuffledOrder

    loaded, text = load_model(toy.artifact), load_validation(toy.shards)
    context = ScoringContext(loaded.model, loaded.tokenizer.vocab, text, select_device())
    method = OWN[1].replace(order=part(LongestFirstOrder))
    assert evaluate_method(context, method).order == "longest"
    assert evaluate_method(replace(context, order=part(ShuffledOrder)), method).order == "shuffled"


def test_progress_has_the_running_bpb_and_the_speed(toy: ToyArtifact) -> None:
    loaded, text, shown = load_model(toy.artifact), load_validation(toy.shards), list[Progress]()
    words = loaded.model, loaded.tokenizer.vocab, text, select_device()
    found = evaluate_method(ScoringContext(*words, batch_tokens=64, show=shown.append), OWN[0])
    bpb, speed, count = shown[-1].details
    assert len(shown) > 10 and (shown[-1].stage, shown[-1].share) == ("score contiguous", 1.0)
    assert count == f"{text.num_targets:,} of {text.num_targets:,} targets"
    assert bpb == f"{found.bpb:.4f} bpb" and speed.endswith(" targets/s")
    first = float(shown[0].details[0].split()[0])
    assert math.isfinite(first) and first == pytest.approx(found.bpb, rel=0.5)


# ---- in a run ------------------------------------------------------------------------------------------------------


def test_a_run_reports_what_adaptation_gained(toy: ToyArtifact, tmp_path: Path) -> None:
    recipe = toy_recipe(steps=2).set("proof", None).set("score", (LORA, OWN[1], SGD))
    d = run_toy(tmp_path / "run", recipe, toy.shards)
    lora, sliding, sgd = d.methods
    assert d.bpb == {"trained": d.bpb["trained"], "averaged": d.bpb["averaged"], "packed": lora.bpb,
                        "sliding": sliding.bpb, "adapted": sgd.bpb}  # fmt: skip
    averaged, baseline = d.bpb["averaged"], lora.bpb_without_adaptation
    assert averaged and baseline and abs(averaged - baseline) < 0.05, "weights in memory are scored without adaptation"
    gain = f"{sgd.gain:+.4f}"
    assert gain in run_table(d) and gain in (tmp_path / "run" / "report.html").read_text()
    log = (tmp_path / "run" / "run.log").read_text()
    assert f"score method:sgd bits:{sgd.bits:.6g} " in log and f"gain:{sgd.gain:.6g}" in log
