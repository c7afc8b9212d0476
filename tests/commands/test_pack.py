"""`pack`: artifacts never exceed the cap, are at most 0.05 % below it, and decode to what was encoded."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.artifact.container import artifact_bytes, read_artifact
from bitgolf.artifact.model import load_model
from bitgolf.commands.pack import pack_to_cap
from bitgolf.commands.show import describe_recipe
from bitgolf.commands.size_search import TOLERANCE, SizeModel, bytes_per_log2, scale_range, scale_steps, search_size
from bitgolf.config.edits import replace
from bitgolf.config.recipe_file import write_recipe
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.files import read_checked_json, read_json
from bitgolf.grids.clip import HessianSdClip, MaxClip, SdClip
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.streams import EncodedTensor, pack_tensors, unpack_tensors
from bitgolf.pipeline import code_size
from bitgolf.quantize.codecs.bit_allocation import EqualRate
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.lqer import LQER
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, encode_model, layout
from bitgolf.quantize.size_forecast import forecast_bytes
from bitgolf.recipes import load_recipe
from helpers.command_line import run_command as bitgolf
from helpers.folder_state import folder_state
from helpers.toy_run import RULES, finish, run_again, run_toy

pytestmark = pytest.mark.usefixtures("real_script_sizes")

PAIRS = 20
GRAIN = (
    8  # bytes: a scale changes several streams, each in steps of 4 bytes; the tolerance of these files is 1 to 10 bytes
)


class Tiny:
    """A random model of a few small matrices and a vector, with random rules and coder."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        shapes = [tuple(int(n) for n in draw.integers(24, 128, 2)) for _ in range(draw.integers(1, 4))]
        generator = torch.Generator().manual_seed(seed)
        self.weights = {f"m{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
        self.weights = {p: w * 2.0 ** float(draw.normal(-2, 1)) for p, w in self.weights.items()}
        for w in self.weights.values():
            w *= torch.exp(0.5 * torch.randn(len(w), 1, generator=generator))
        self.weights["v"] = torch.randn(int(draw.integers(3, 40)), generator=generator)
        self.roles = {path: "scale" if path == "v" else "matrix" for path in self.weights}
        self.rules = (part(Rule, where="scale", use=part(Float, dtype="float16")), *self._codecs(draw))
        self.coder: Spec[Coder] = part(RangeCoder, variance_contexts=bool(draw.integers(2)), tables="sent")

    def _codecs(self, draw: np.random.Generator) -> list[Spec[Rule]]:
        allocate = part(EqualRate)
        trellis = part(
            TrellisCodec, bits=float(draw.uniform(2, 5)), states=int(draw.choice([1, 4, 8])), allocation=allocate
        )
        clip = part(SdClip, k=float(draw.uniform(6, 16)))
        rows = part(IntRows, bits=int(draw.integers(5, 8)), clip=clip, solver=part(GPTQ) if draw.integers(2) else None)
        both = len(self.weights) > 2 and bool(draw.integers(2))
        first = [part(Rule, where="@m0", use=rows)] if both else []
        return [*first, part(Rule, where="*", use=trellis if both or draw.integers(2) else rows)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(w.shape) for path, w in self.weights.items()}

    def line(self, cap: int) -> SizeModel:
        sizes = {path: w.numel() for path, w in self.weights.items()}
        expected = sum(forecast_bytes(self.shapes, self.roles, self.rules, self.coder).values())
        return SizeModel(bytes_per_log2(self.rules, self.roles, sizes), TOLERANCE * cap, expected + len(self.file([])))

    def sections(self, log2_step_scale: float) -> tuple[dict[str, EncodedTensor], bytes]:
        rules = scale_steps(self.rules, log2_step_scale)
        codes = encode_model(self.weights, self.roles, rules)
        return codes, self.file(
            pack_tensors(codes, self.roles, self.coder, context_models(self.shapes, self.roles, rules))
        )

    def file(self, sections: list[Any]) -> bytes:
        return artifact_bytes(recipe={}, meta={}, sections=sections)

    def read(self, file: bytes, log2_step_scale: float) -> dict[str, EncodedTensor]:
        rules = scale_steps(self.rules, log2_step_scale)
        known = layout(self.shapes, self.roles, rules)
        there = context_models(self.shapes, self.roles, rules)
        return unpack_tensors(read_artifact(file).sections, known, self.roles, self.coder, there)


@pytest.mark.parametrize("pairs", [7, pytest.param(PAIRS, marks=pytest.mark.exhaustive)])
def test_random_models_and_caps(pairs: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of one to twenty kilobytes: at most 0.05 % or 8 bytes below the cap, and decoded bit for bit."""
    errors, under, probes = [], [], []
    for seed in range(pairs):
        tiny, draw = Tiny(seed), np.random.default_rng(PAIRS + seed)
        low, high = scale_range(tiny.rules)
        cap = len(tiny.sections(-draw.uniform(max(-high, -2) + 0.3, -low - 0.3))[1]) + int(draw.integers(0, 20))
        found = search_size(
            lambda log2_step_scale, _, tiny=tiny: len(tiny.sections(log2_step_scale)[1]),
            cap,
            tiny.line(cap),
            (low, high),
        )
        codes, file = tiny.sections(found.best.log2_step_scale)
        assert len(file) == found.best.bytes <= cap, seed
        assert cap - len(file) <= max(TOLERANCE * cap, GRAIN), (seed, cap, found)
        assert same(tiny.read(file, found.best.log2_step_scale), codes), seed
        errors.append(abs(found.probes[0].predicted_bytes / found.probes[0].bytes - 1))
        under.append((cap - len(file)) / cap)
        probes.append(len(found.probes))
    with capsys.disabled():
        print(
            f"\n{pairs} caps: at most {max(under):.3%} under, {np.mean(probes):.1f} encodings each; the forecast before the"
            f" first was off by {np.median(errors):.1%} (median), {max(errors):.1%} at most"
        )


def same(a: dict[str, EncodedTensor], b: dict[str, EncodedTensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[path].keys() == b[path].keys() and all(a[path][n].tobytes() == b[path][n].tobytes() for n in a[path])
        for path in a
    )


# ---- scaled settings------------------------------------------------------------------------------------------------


def rules_of(*codecs: Spec[Any]) -> tuple[Spec[Rule], ...]:
    return tuple(part(Rule, where=f"@m{i}", use=codec) for i, codec in enumerate(codecs))


def test_all_that_has_a_knob_moves_by_as_much_and_nothing_else() -> None:
    clip = part(HessianSdClip, k=12.0, strength=0.1)
    repaired = part(LQER, codec=part(IntRows, bits=5, clip=part(SdClip, k=10.0)), rank=2)
    fixed = [part(Float, dtype="float16"), part(IntRows, clip=part(MaxClip))]
    before = rules_of(part(TrellisCodec, bits=3.25, states=8), part(IntRows, clip=clip), repaired, *fixed)
    after = scale_steps(before, -0.5)
    assert after[0] == before[0].set("use.bits", 3.75)
    assert after[1]["use.clip.k"] == pytest.approx(12 / math.sqrt(2), rel=1e-6)
    assert after[1] == before[1].set("use.clip.k", after[1]["use.clip.k"])
    assert after[2]["use.codec.clip.k"] == pytest.approx(10 / math.sqrt(2), rel=1e-6)
    assert after[3:] == before[3:] and scale_steps(before, 0.0) == before
    back = scale_steps(after, 0.5)
    assert back[1]["use.clip.k"] == pytest.approx(12.0, rel=1e-6) and back[0] == before[0]


@pytest.mark.parametrize(
    "codec",
    [part(TrellisCodec, bits=3.5, states=4), part(IntRows, bits=7, clip=part(SdClip, k=24.0))],
    ids=["trellis", "rows"],
)
def test_halved_steps_are_a_bit_of_every_weight_that_moves(codec: Spec[Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"m0": torch.randn(200, 300, generator=generator), "m1": torch.randn(50, 40, generator=generator)}
    roles, rules = dict.fromkeys(weights, "matrix"), rules_of(codec, part(Float, dtype="float16"))
    shapes = {path: tuple(w.shape) for path, w in weights.items()}

    def size(log2_step_scale: float) -> int:
        moved = scale_steps(rules, log2_step_scale)
        codes = encode_model(weights, roles, moved)
        return sum(
            len(s.data) for s in pack_tensors(codes, roles, part(RangeCoder), context_models(shapes, roles, moved))
        )

    of_a_doubling = bytes_per_log2(rules, roles, {path: w.numel() for path, w in weights.items()})
    assert of_a_doubling == -200 * 300 / 8
    assert size(0.5) - size(-0.5) == pytest.approx(of_a_doubling, rel=0.05)


def test_how_far_the_knobs_go() -> None:
    trellis, rows = part(TrellisCodec, bits=3.5), part(IntRows, bits=6, clip=part(SdClip, k=8.0))
    assert scale_range(rules_of(trellis)) == (-3.5, 3.25)
    low, high = scale_range(rules_of(rows))
    assert low == -1.0 and 4.0 < high < 5.0, "from k = 8 to k = 4, and down to 0.25 bits"
    assert scale_range(rules_of(trellis, rows)) == (-1.0, 3.25), "the range is the intersection of both"
    narrow = rules_of(rows.edit(SdClip, replace(k=3.0)))
    assert scale_range(narrow)[0] == 0.0, "a clip below 4 standard deviations must not become smaller"
    for log2_step_scale in (-1.01, 3.26):
        with pytest.raises(RecipeError, match=r"2\^-1\.00 to 2\^\+3\.25, not by"):
            scale_steps(rules_of(trellis, rows), log2_step_scale)


def test_rules_without_a_knob_are_refused() -> None:
    with pytest.raises(RecipeError, match="no codec") as caught:
        scale_range(rules_of(part(Float, dtype="float16"), part(IntRows, clip=part(MaxClip))))
    assert "TrellisCodec" in caught.value.hint and "SdClip" in caught.value.hint


# ---- the search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [11_000_000, 14_000_000, 15_999_999, 17_500_000])
@pytest.mark.parametrize("off", [0.985, 1.015])
def test_few_encodings_where_they_are_dear(cap: int, off: float) -> None:
    """36 million weights: the slope is 4 % less than assumed, the forecast is 1.5 % off, and the noise is 200 bytes."""
    noise = np.random.default_rng(0)

    def size(log2_step_scale: float, expected: int) -> int:
        curve = 2_000_000 * log2_step_scale**2 / 16
        return round(15_000_000 + 36e6 / 8 * -0.96 * log2_step_scale + curve + 200 * noise.standard_normal())

    span = (-3.0, 3.0)
    found = search_size(size, cap, SizeModel(-36e6 / 8, TOLERANCE * cap, round(15_000_000 * off)), span)
    assert cap * (1 - TOLERANCE) <= found.best.bytes <= cap and len(found.probes) <= 3
    known = SizeModel(-36e6 / 8, TOLERANCE * cap)
    known.points.append((0.0, 15_000_000))
    assert len(search_size(size, cap, known, span).probes) <= 3


def test_a_cap_out_of_reach_is_an_error_with_what_is_in_scale_range() -> None:
    def size(log2_step_scale: float, expected: int) -> int:
        tried.append(log2_step_scale)
        return round(10_000 - 3_000 * log2_step_scale)

    tried: list[float] = []
    with pytest.raises(BitgolfError, match=r"3,000 bytes is out of reach.*has 4,000 bytes") as caught:
        search_size(size, 3_000, SizeModel(-3_000, TOLERANCE * 3_000, 10_100), (-2.0, 2.0))
    assert tried == [2.0] and "at least 4,000 bytes" in caught.value.hint
    tried.clear()
    found = search_size(size, 20_000, SizeModel(-3_000, TOLERANCE * 20_000, 10_100), (-2.0, 2.0))
    assert tried == [-2.0] and found.best.bytes == 16_000 and found.best.log2_step_scale == -2.0
    assert search_size(size, 16_000, SizeModel(-3_000, 8, 10_100), (-2.0, 2.0)).best.bytes > 15_992, (
        "a cap at the end of the range is within reach"
    )


@pytest.mark.parametrize("scale", [-1.0, 0.0, 2.0, 100.0])
@pytest.mark.parametrize("aim", [1.0, 500.0, 1e9])
def test_no_prediction_is_negative(scale: float, aim: float) -> None:
    model = SizeModel(-3_000, 1.0, 10_000)
    assert model.predict(scale, aim) >= 0
    model.points += [(0.0, 9_000), (1.0, 2_000)]
    assert model.predict(scale, aim) >= 0 and model.predict(0.0, 9_000) == 9_000


def test_a_size_that_leaps_is_filled_as_far_as_it_goes() -> None:
    """No size between 900 and 1,040 bytes exists: the search ends with the largest file within the cap."""
    found = search_size(
        lambda log2_step_scale, _: 900 if log2_step_scale > -0.1 else 1040,
        1000,
        SizeModel(-800, 0.5, 1000),
        (-1.0, 1.0),
        most=12,
    )
    assert found.best.bytes == 900 and len(found.probes) == 12


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("fit"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def model_bytes(file: Path) -> int:
    artifact = read_artifact(file)
    return artifact.bytes - len(artifact.sections["tokenizer"].data)


def test_an_artifact_for_a_cap_is_written_beside_the_run(run: Path, tmp_path: Path) -> None:
    before, cap, state = model_bytes(run / "artifact.bg"), 14_321, folder_state(run)
    document = json.loads(bitgolf("pack", str(run), "--cap", str(cap), "--json").stdout)
    artifact, settings = run / "artifact-14321.bg", run / "artifact-14321.json"
    assert document["artifact"] == str(artifact) and document["recipe"] == str(settings)
    assert model_bytes(artifact) == document["bytes"] <= cap < before and document["finest"] is False
    under = document["bytes_under_cap"]
    assert under == cap - document["bytes"] and document["within_tolerance"] == (under <= TOLERANCE * cap)
    assert under <= 24 and document["probes"][-1].keys() == {"log2_step_scale", "predicted_bytes", "bytes"}
    first, weights = document["probes"][0], 2 * (4 * 32 * 32 + 2 * 32 * 48) + 295 * 32
    begun = -first["log2_step_scale"] * weights / 8
    assert begun == pytest.approx(cap * (1 - TOLERANCE / 2) - before, abs=1), (
        "the search starts from the size of the artifact"
    )
    recipe = read_json(settings)
    moved = {s["path"]: s["after"] for s in document["settings"]}
    assert moved.keys() == {"quantize.1.use.clip.k", "quantize.2.use.bits"}
    assert recipe["quantize"][2]["use"]["bits"] == moved["quantize.2.use.bits"] < 4 and recipe["pack"]["cap"] == cap
    assert recipe["quantize"][0] == RULES[0].to_json()
    assert load_model(artifact).recipe.quantize[2]["use.bits"] == moved["quantize.2.use.bits"]
    scored = json.loads(bitgolf("score", str(artifact), "--shards", str(run / "data"), "--json").stdout)
    assert 0 < scored["bpb"] < 9

    artifact.replace(tmp_path / "kept.bg")
    settings.replace(tmp_path / "kept.json")
    after = folder_state(run)
    assert state and after and state.keys() == after.keys()
    assert {name for name in state if state[name] != after[name]} == {"log.jsonl", "run.log"}
    run_toy(run, load_recipe(str(tmp_path / "kept.json"), []), first="quantize")
    assert (run / "artifact.bg").read_bytes() == (tmp_path / "kept.bg").read_bytes(), "its recipe gives the same file"


def test_the_whole_file_may_be_what_counts(run: Path) -> None:
    document = pack_to_cap(run, 15_000, self_contained=True)
    assert Path(document.artifact).name == "artifact-15000-file.bg"
    assert Path(document.artifact).stat().st_size == document.bytes <= 15_000
    assert document.bytes_under_cap <= 24 and model_bytes(Path(document.artifact)) < document.bytes


def test_without_an_artifact_a_forecast_begins_and_the_cap_is_the_recipes(run: Path) -> None:
    (run / "artifact.bg").unlink()
    recipe = read_checked_json(run / "recipe.json")
    recipe["pack"]["cap"] = 13_000
    (run / "recipe.json").write_text(json.dumps(recipe))
    document = pack_to_cap(run)
    assert document.cap == 13_000 and document.bytes_under_cap <= 24
    assert document.probes[0].predicted_bytes == pytest.approx(document.probes[0].bytes, rel=0.25)


def test_the_script_counts_if_the_recipe_says_so(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other steps have a script of another size, here by up to 30 bytes; the sum is exact nevertheless."""

    def script_bytes(recipe: Spec[Any]) -> int:
        return 60_000 + int(recipe.hash, 16) % 31

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(code_size, "recipe_script", lambda recipe, _: SimpleNamespace(bytes=script_bytes(recipe)))
    write_recipe(run / "recipe.json", load_recipe(str(run), ["pack.counted=model+code"]))
    document = pack_to_cap(run, 75_000)
    assert document.code and document.code == script_bytes(load_recipe(document.recipe, []))
    assert document.counted == "model+code"
    assert document.bytes == model_bytes(Path(document.artifact)) + document.code <= 75_000
    assert document.within_tolerance
    with pytest.raises(RecipeError, match="leaves nothing of a cap of 60,000"):
        pack_to_cap(run, 60_000)


def test_a_cap_above_the_largest_file_gives_the_finest_steps(run: Path) -> None:
    done = bitgolf("pack", str(run), "--cap", "90000")
    assert done.returncode == 0 and "these are the finest steps" in done.stdout
    assert "even the finest steps make no larger file" in done.stderr
    document = pack_to_cap(run, 90_000)
    assert document.finest and not document.within_tolerance and len(document.probes) == 1
    assert document.log2_step_scale == scale_range(RULES)[0] and document.bytes == model_bytes(
        run / "artifact-90000.bg"
    )
    assert document.bytes > model_bytes(run / "artifact.bg")


def test_what_cannot_be_packed_is_said_and_left_alone(run: Path, tmp_path: Path) -> None:
    before = folder_state(run)
    with pytest.raises(BitgolfError, match="out of reach") as caught:
        pack_to_cap(run, 500)
    assert "-" not in caught.value.message and folder_state(run) == before
    stages = read_json(run / "stages.json")
    unfinished = {stage: done for stage, done in stages.items() if stage in ("prepare", "train")}
    (run / "stages.json").write_text(json.dumps(unfinished))
    for folder, words in ((tmp_path, "not the folder of a run"), (run, "averaged and calibrated")):
        done = bitgolf("pack", str(folder))
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_groups_are_packed_forecast_and_read(run: Path) -> None:
    before = load_model(run / "artifact.bg").model.state_dict()
    run_again(run, "pack.groups=(StreamGroup(where='@**.mlp.**', name='mlp'),)", first="pack")
    sections = read_artifact(run / "artifact.bg").sections
    assert sections["mlp.codes"].elements == 2 * 2 * 32 * 48 and sections["matrix.codes"].elements == 2 * 4 * 32 * 32
    after = load_model(run / "artifact.bg").model.state_dict()
    assert all(torch.equal(before[path], after[path]) for path in before)
    streams = describe_recipe(load_recipe(str(run), [])).forecast.streams
    packed = {name: len(section.data) for name, section in sections.items() if name != "tokenizer"}
    assert streams.keys() == packed.keys()
    assert sum(streams.values()) == pytest.approx(sum(packed.values()), rel=0.2)
