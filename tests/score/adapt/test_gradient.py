"""SGD on the stream: which tokens it trains on and when, and that the weights are restored."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.gradient import AdamWAdaptation, SGDAdaptation, WeightAdapter, cosine_decay
from bitgolf.score.adapt.phased_lora import PhasedLoRA
from bitgolf.score.adapt.stream_sgd import StreamSGD, StreamSGDPlayer
from bitgolf.score.methods import ScoringMethod, ScoringWindow
from bitgolf.score.player import AdaptationStep
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText, append_final_bos
from helpers.process_groups import run_as_script, run_in_processes
from helpers.toy import VOCAB, built, toy_model

TOY = toy_model().set("layers", 2)
CHUNK, TARGETS = 40, 150
LEARN = part(SGDAdaptation, lr=0.05, epochs=2, batch_size=2, sequence_length=16)


def drifting(targets: int = TARGETS, seed: int = 0) -> TokenizedText:
    """Five documents of a few distinct tokens, a distribution that the model can adapt to."""
    ids = np.random.default_rng(seed).choice([5, 9, 17, 33], targets, p=[0.4, 0.3, 0.2, 0.1])
    ids[:: targets // 5] = 1
    return TokenizedText(append_final_bos(ids, 1), 3 * targets)


def stream(sgd: Spec[SGDAdaptation] = LEARN, *, stride: int = 8, chunk: int = CHUNK) -> StreamSGD:
    return StreamSGD(window=16, stride=stride, chunk=chunk, adaptation=sgd)


def charged(
    model: LM,
    text: TokenizedText,
    method: ScoringMethod,
    *,
    batch_tokens: int = 64,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> np.ndarray:
    """Bits of each target, (targets,)."""
    charges = np.zeros(text.num_targets)
    player = method.make_player(model, VOCAB, select_device(), distributed)
    try:
        score(player, text, method, batch_tokens=batch_tokens, charges=charges, distributed=distributed)
    finally:
        player.close()
    return charges


# ---- sections and windows ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 60), st.booleans(), st.data())
def test_the_plan_has_the_windows_in_the_section_of_their_first_target(
    targets: int, window: int, chunk: int, isolated: bool, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    method = StreamSGD(window=window, stride=stride, chunk=chunk, isolated=isolated)
    text = drifting(max(targets, 5))
    spans = text.documents() if isolated else [(0, text.num_targets)]
    expected = [w for start, stop in spans for w in method.without_adaptation()().windows(stop - start, start)]
    found, done = list[ScoringWindow](), 0
    for section in method.sections(text, 64):
        assert section.start == done and section.stop - section.start <= chunk
        own = sorted(w for track in section.batches for texts in track.texts for w in texts)
        assert all(section.start <= w.first_target < section.stop for w in own)
        found, done = found + own, section.stop
        assert not found or found[-1].stop >= done or found == expected, (
            "a target must be scored before its chunk is trained"
        )
    assert sorted(found) == sorted(expected) and done == text.num_targets


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_sequences_and_steps_have_every_target_once(ids: list[int], length: int, batch: int, documents: bool) -> None:
    tokens, sgd = torch.tensor(ids), SGDAdaptation(sequence_length=length, batch_size=batch, split_documents=documents)
    rows = sgd.sequences(tokens, 1, length)
    assert [t for w in rows for t in range(w.start, w.stop)] == list(range(len(ids) - 1))
    assert all(1 <= w.stop - w.start <= length for w in rows)
    if documents:
        assert not any((tokens[w.start + 1 : w.stop] == 1).any() for w in rows)
    steps = list(sgd.batches(rows, length))
    assert [w for step in steps for w in step] == rows and all(steps)
    assert all(sum(w.stop - w.start for w in step) <= batch * length for step in steps)
    if not documents:
        assert len(steps) == -(-len(rows) // batch)


# ---- training data and order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sgd", [LEARN.replace(lr=0.0), LEARN.replace(epochs=0), part(AdamWAdaptation, lr=0.0)])
def test_without_learning_the_bits_are_those_of_the_windows_alone(sgd: Spec[SGDAdaptation]) -> None:
    model, text, method = built(TOY), drifting(), stream(sgd)
    assert np.array_equal(
        charged(model, text, method, batch_tokens=1),
        charged(model, text, method.without_adaptation()(), batch_tokens=1),
    )


@pytest.mark.parametrize("sgd", [LEARN, part(AdamWAdaptation, lr=0.01, sequence_length=16, batch_size=2)])
def test_it_learns_what_the_model_did_not_know(sgd: Spec[SGDAdaptation]) -> None:
    model, text = built(TOY), drifting(400)
    method = stream(sgd)
    still, adapted = charged(model, text, method.without_adaptation()()), charged(model, text, method)
    assert np.allclose(adapted[:CHUNK], still[:CHUNK], rtol=1e-4), "the first chunk is scored before any training"
    assert adapted.sum() < 0.9 * still.sum()


def replayed(play: Callable[[LM, TokenizedText], np.ndarray]) -> None:
    """Replace all tokens after a target, at or within a chunk's end: the bits up to the target must stay the same."""
    model, text = built(TOY), drifting()
    first = play(model, text)
    for end in (CHUNK, CHUNK + 20, 3 * CHUNK):
        other = text.tokens.copy()
        other[end + 1 :] = np.random.default_rng(1).integers(2, VOCAB, len(other) - end - 1)
        second = play(model, text._replace(tokens=other))
        assert np.array_equal(first[:end], second[:end]) and not np.allclose(first[end:], second[end:])


def test_a_replay_in_which_all_that_is_later_is_random_gives_the_same_scores() -> None:
    replayed(lambda model, text: charged(model, text, stream()))


class Hasty(StreamSGDPlayer):
    """Trains on each chunk before it is scored."""

    whole: Tensor

    def adapt(self, revealed: Tensor, step: AdaptationStep) -> None:
        start = (step.number + 1) * CHUNK
        self.learner.train_on(self.whole[start : start + CHUNK + 1], 1.0)


def test_the_replay_catches_a_player_that_learns_before_it_scores() -> None:
    def play(model: LM, text: TokenizedText) -> np.ndarray:
        method, charges = stream(), np.zeros(text.num_targets)
        player = Hasty(model, VOCAB, select_device(), SINGLE_PROCESS, method)
        player.whole = torch.from_numpy(np.append(text.tokens, [5] * 2 * CHUNK))
        score(player, text, method, charges=charges)
        player.close()
        return charges

    with pytest.raises(AssertionError):
        replayed(play)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_totals_do_not_depend_on_how_much_is_read_at_once(dtype: torch.dtype, tolerance: float) -> None:
    model, text = built(TOY).to(dtype), drifting()
    totals = [
        charged(model, text, stream(LEARN.replace(max_tokens=at_once), stride=7), batch_tokens=batch_tokens).sum()
        for at_once, batch_tokens in [(1, 1), (40, 64), (8192, 8192)]
    ]
    assert totals == pytest.approx([totals[0]] * 3, rel=tolerance)


# ---- the steps -------------------------------------------------------------------------------------------------------


def looped() -> Spec[LM]:
    return toy_model().replace(
        layer_schedule=part(UNet, order=part(LoopedLayers, first_layer=1, last_layer=1, since=(0.0,)))
    )


@pytest.mark.parametrize("toy", [toy_model(), looped()], ids=["straight", "looped"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_steps_are_those_of_torch(toy: Spec[LM], kind: str) -> None:
    """Two rows per step, each as long as the window; the last step and row are shorter. For two learning rates."""
    tokens = torch.from_numpy(drifting(77).tokens)
    settings = {"epochs": 2, "batch_size": 2, "max_norm": 0.5}
    sgd = SGDAdaptation(lr=0.1, **settings) if kind == "sgd" else AdamWAdaptation(lr=0.01, weight_decay=0.1, **settings)
    model, other = built(toy).double().requires_grad_(False), built(toy).double()
    learner = WeightAdapter(sgd, model, select_device(), SINGLE_PROCESS, window=16, chunk=64)
    params = list(other.parameters())
    made = {
        "sgd": lambda: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    }
    optimizer = made[kind]()
    for rate in (1.0, 0.25):
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.1 if kind == "sgd" else 0.01)
        learner.train_on(tokens, rate)
        for start in [0, 32, 64] * 2:
            stop = min(start + 32, 77)
            rows = [(a, min(a + 16, stop)) for a in range(start, stop, 16)]
            losses = [
                F.cross_entropy(other(tokens[None, a:b])[0], tokens[a + 1 : b + 1], reduction="sum") for a, b in rows
            ]
            optimizer.zero_grad()
            (sum(losses, torch.zeros(())) / (stop - start)).backward()
            nn.utils.clip_grad_norm_(params, 0.5)
            optimizer.step()
    start = built(toy).double()
    for (path, p), q, s in zip(model.named_parameters(), params, start.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-6, atol=1e-8, msg=path)
        assert not torch.equal(p, s), f"{path} did not learn"


def test_rates_go_down_a_cosine_and_the_last_chunk_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = list[tuple[list[int], float]]()
    monkeypatch.setattr(WeightAdapter, "train_on", lambda self, tokens, rate: learned.append((tokens.tolist(), rate)))
    text = drifting()
    charged(built(TOY), text, stream())
    assert [tokens for tokens, _ in learned] == [text.tokens[c : c + CHUNK + 1].tolist() for c in (0, 40, 80)]
    assert [rate for _, rate in learned] == pytest.approx([1.0, 0.75, 0.25])
    assert stream().warnings(text) == [] and "trains on nothing" in stream(chunk=TARGETS).warnings(text)[0]
    assert cosine_decay(3, 3) == pytest.approx(0.0) and cosine_decay(0, 0) == 1.0


@pytest.mark.parametrize(
    ("where", "frozen", "learns"),
    [
        (("scale", "gate"), (), lambda role, path: role == "scale"),
        (("*",), ("embedding",), lambda role, path: role != "embedding"),
        (("@blocks.2.**", "embedding"), (), lambda role, path: "blocks.2" in path or role == "embedding"),
        (("matrix",), ("@blocks.0.**",), lambda role, path: role == "matrix" and "blocks.0" not in path),
    ],
)
def test_what_is_named_learns_and_nothing_else(
    where: tuple[str, ...], frozen: tuple[str, ...], learns: Callable[[str, str], bool]
) -> None:
    model, before = built(looped()), built(looped())
    where = tuple(w for w in where if w != "gate" or "gate" in parameter_roles(model).values())
    WeightAdapter(
        LEARN.replace(where=where, frozen=frozen)(), model, select_device(), SINGLE_PROCESS, window=16, chunk=64
    ).train_on(torch.from_numpy(drifting().tokens))
    kinds = parameter_roles(model)
    for path in kinds:
        changed = not torch.equal(model.get_parameter(path), before.get_parameter(path))
        assert changed == learns(kinds[path], path), path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": ("nothing",)}, "'nothing' selects no parameter .*embedding"),
        ({"where": ("scale",), "frozen": ("matrix",)}, "'matrix' selects no parameter"),
        ({"frozen": ("*",)}, "frozen=.* every selected parameter"),
    ],
)
def test_patterns_that_select_nothing_are_errors(settings: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SGDAdaptation(**settings).trainable_parameters(built(TOY))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "settings", [{"lr": -0.1}, {"epochs": -1}, {"batch_size": 0}, {"sequence_length": -1}, {"max_tokens": 0}]
)
def test_impossible_settings_are_errors(settings: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="expected at least"):
        SGDAdaptation(**settings)  # pyright: ignore[reportArgumentType]


# ---- restoring the model -------------------------------------------------------------------------------------------


def test_closing_gives_the_weights_back_and_a_second_score_is_the_first() -> None:
    model, before = built(TOY).requires_grad_(False), built(TOY)
    first = charged(model, drifting(), stream())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    assert not any(p.requires_grad for p in model.parameters())
    assert np.array_equal(first, charged(model, drifting(), stream()))


def test_a_player_plays_one_text_until_it_is_closed() -> None:
    model, text, method = built(TOY), drifting(), stream()
    player = method.make_player(model, VOCAB, select_device(), SINGLE_PROCESS)
    bits = score(player, text, method).bits
    with pytest.raises(BitgolfError, match="has adapted to another text"):
        score(player, text, method)
    player.close()
    assert score(player, text, method).bits == bits


def test_weights_that_run_away_are_an_error_that_says_so() -> None:
    diverging = Spec(LEARN.cls, {**LEARN.kwargs, "lr": 1e30, "max_norm": 0.0})  # `part` refuses such a rate
    with pytest.raises(BitgolfError, match=r"gradient norm is (nan|inf)"):
        charged(built(TOY), drifting(), stream(diverging))


# ---- processes -------------------------------------------------------------------------------------------------------


METHODS: dict[str, Spec[ScoringMethod]] = {
    "sgd": part(StreamSGD, window=16, stride=8, chunk=CHUNK, adaptation=LEARN.replace(batch_size=3)),
    "phased": part(
        PhasedLoRA,
        lora=part(DocumentLoRA, window=16, stride=8, rows=2, rank=2),
        boundaries=(1, 3),
        chunk=25,
        sgd=LEARN.replace(split_documents=True),
    ),
}


def played(distributed: DistributedContext) -> dict[str, list[object]]:
    """For each method, the bits and a hash of the weights after the last target."""
    results = dict[str, list[object]]()
    for name, spec in METHODS.items():
        model, text, method = built(TOY).double().requires_grad_(False), drifting(), spec()
        player = method.make_player(model, VOCAB, select_device(), distributed)
        bits = score(player, text, method, distributed=distributed, batch_tokens=40).bits
        weights = b"".join(p.numpy().tobytes() for p in model.parameters())
        results[name] = [bits, hashlib.sha256(weights).hexdigest()]
        player.close()
    return results


def main(out: Path) -> int:
    def write(distributed: DistributedContext) -> None:
        (out / f"{distributed.world_size}.{distributed.rank}.json").write_text(json.dumps(played(distributed)))

    return run_in_processes(write, out)


def test_one_two_and_four_processes_agree(tmp_path: Path) -> None:
    """With three rows per step and four processes, a process without rows still joins every reduction."""
    run_as_script(__file__, tmp_path)
    alone = played(SINGLE_PROCESS)
    for size in (2, 4):
        ranks = [json.loads((tmp_path / f"{size}.{rank}.json").read_text()) for rank in range(size)]
        for name in METHODS:
            assert all(r[name] == ranks[0][name] for r in ranks), "bits and weights must be equal on all ranks"
            assert ranks[0][name][0] == pytest.approx(alone[name][0], rel=1e-9)
    untouched = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in built(TOY).double().parameters()))
    assert all(weights != untouched.hexdigest() for _, weights in alone.values()), "training must change the weights"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
