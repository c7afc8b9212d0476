"""Per-document LoRA: targets are scored before training, documents are isolated, and the model is restored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bitgolf.config.parse import from_json
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.adapt.adapter_forward import AdapterForward
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.adapt.lora_player import LoRAPlayer
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.methods import TextSection
from bitgolf.score.player import ScoringBatch
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText
from helpers.document_lora import LOOPED, SECOND, Documents, charges, documents, lora, played, text_of
from helpers.toy import VOCAB, built


@pytest.mark.parametrize("nothing", [{"lr": 0.0}, {"steps": 0}])
@pytest.mark.parametrize("stride", [4, 5, 16])
def test_without_learning_it_is_the_same_windows_scored_still(nothing: dict[str, Any], stride: int) -> None:
    text, method = text_of(documents()), lora(stride=stride, **nothing)
    assert charges(method, text) == pytest.approx(charges(method.without_adaptation()(), text), rel=1e-9, abs=1e-9)


def test_a_score_depends_on_nothing_that_comes_later() -> None:
    """Replay: with all tokens after a cut replaced by random ones, the bits before the cut stay the same."""
    text = text_of(documents())
    real = charges(lora(), text)
    for cut in (12, 64):
        other = text.tokens.copy()
        other[cut + 1 : -1] = np.random.default_rng(cut).integers(2, VOCAB, len(other) - cut - 2)
        replayed = charges(lora(), text._replace(tokens=other))
        assert replayed[:cut] == pytest.approx(real[:cut], rel=1e-9)
        assert np.abs(replayed[cut:] - real[cut:]).max() > 0.1


def by_document(found: npt.NDArray[np.float64], documents: Documents) -> list[npt.NDArray[np.float64]]:
    return np.split(found, np.cumsum([len(d) for d in documents])[:-1])


@pytest.mark.parametrize("settings", [{}, SECOND, {"rank": 0, "target_modules": ("head",)}, {"steps": 2}])
def test_each_document_is_scored_by_itself(settings: dict[str, Any]) -> None:
    """In another order of documents, each document has the same bits."""
    docs, method, order = documents(), lora(**settings), (4, 2, 6, 0, 3, 5, 1)
    turned = [docs[i] for i in order]
    before = by_document(charges(method, text_of(docs)), docs)
    after = by_document(charges(method, text_of(turned)), turned)
    for place, i in enumerate(order):
        assert after[place] == pytest.approx(before[i], rel=1e-9)
    assert not method.cross_document


def test_warm_documents_follow_one_another_and_say_so() -> None:
    docs, method = documents(), lora(keep_a=True, lr=0.05)
    before = by_document(charges(method, text_of(docs)), docs)
    after = by_document(charges(method, text_of(docs[::-1])), docs[::-1])[::-1]
    assert max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) > 1e-3
    assert method.cross_document


@pytest.mark.parametrize(("count", "chains"), [(2, 0), (6, 1), (7, 1), (12, 2), (100, 8), (1000, 8)])
def test_with_keep_a_groups_are_assigned_to_chains(count: int, chains: int) -> None:
    """The first, smaller group is alone; each chain has two or more whole groups of three, if there are as many."""
    batches = list(lora(keep_a=True).batches([(i, i + 1) for i in range(count)]))
    dealt = [[window.first_target for text in batch.texts for window in text] for batch in batches]
    alone = [dealt.pop(0)] if count % 3 else []
    assert alone == ([list(range(count % 3))] if count % 3 else [])
    assert len(dealt) == chains and sorted(chain.from_iterable(alone + dealt)) == list(range(count))
    assert all(len(own) % 3 == 0 and own == sorted(own) for own in dealt)
    assert not dealt or max(map(len, dealt)) - min(map(len, dealt)) <= 3
    assert all(batch.together and batch.rows == 3 for batch in batches)


def test_with_keep_a_too_few_documents_are_a_warning() -> None:
    text = text_of(documents())
    assert lora(keep_a=True).warnings(text) == lora(rows=64).warnings(text) == []
    assert "no effect" in lora(keep_a=True, rows=4).warnings(text)[0]


class Seen(LoRAPlayer):
    """Notes which rows have a window, and A of all rows before each prediction."""

    def predict(self, block: ScoringBatch) -> Tensor:
        logits = super().predict(block)
        rows = block.target_mask.any(1).tolist(), block.reset_rows.tolist(), block.reset_all
        self.__dict__.setdefault("seen", []).append((*rows, self.adapters.values[:, self.adapters.is_factor_a].clone()))
        return logits


def seen_rounds(method: DocumentLoRA, lengths: Sequence[int]) -> list[tuple[list[bool], list[bool], bool, Tensor]]:
    text = text_of(documents(lengths=lengths))
    playing = Seen(built(LOOPED).double(), VOCAB, select_device(), method)
    score(playing, text, method)
    playing.close()
    return playing.__dict__["seen"]


def test_with_keep_a_the_documents_of_a_group_begin_together() -> None:
    """Rows wait for the longest document of the group; a document has a BOS and as many targets as tokens with it."""
    rounds = seen_rounds(lora(keep_a=True, rows=2), (4, 14, 4, 4, 9))  # one document alone, then two groups of two
    assert [windows for windows, *_ in rounds] == [
        [True, False],
        [True, True],
        [True, False],
        [True, False],
        [True, True],
        [False, True],
    ]
    assert [resets for _, resets, *_ in rounds] == [
        [True, False],
        [True, True],
        *2 * [[False, False]],
        [True, True],
        [False, False],
    ]


def test_a_of_ended_documents_decays_until_all_have_ended() -> None:
    """One AdamW for all rows, as in the original: A is multiplied by 1 - lr * decay in each step of the group."""
    settings: dict[str, Any] = {"keep_a": True, "rows": 2, "betas": (0.0, 0.99), "lr": 0.1, "weight_decay": 0.5}
    rounds = seen_rounds(lora(**settings), (14, 4, 4, 4))  # three windows beside one, so two steps
    start, end = rounds[0][3], rounds[3][3]
    assert torch.equal(start[0], start[1]) and (end[0] - start[0] * 0.95**2).abs().max() > 1e-3
    assert (end[1] - start[1] * 0.95**2).abs().max() < 1e-12, "its only window is the last one, which is not trained"


def test_the_first_smaller_group_passes_nothing_on() -> None:
    rounds = seen_rounds(lora(keep_a=True, rows=2, lr=0.1), (30, 14, 14, 14, 14))
    begins = [a for _, _, reset_all, a in rounds if reset_all]
    assert len(begins) == 2 and torch.equal(begins[0], begins[1])
    last = [a for _, resets, _, a in rounds if all(resets)][-1]
    assert (last - begins[0]).abs().min(1).values.max() > 0 and (last != begins[0]).any(1).all()


@pytest.mark.parametrize("stride", [4, 5, 16])
def test_a_full_last_window_ends_with_the_document(stride: int) -> None:
    docs = documents(lengths=(30, 3, 47))
    text, method = text_of(docs), lora(stride=stride, full_windows=True, lr=0.0)
    for start, stop in text.documents():
        windows = list(method.windows(stop - start, start))
        assert windows[-1].start == max(start, stop - 16) and windows[-1].stop == stop
        assert windows[:-1] == list(lora(stride=stride).windows(stop - start, start))[:-1]
    still = charges(method.without_adaptation()(), text)
    assert charges(method, text) == pytest.approx(still, rel=1e-9, abs=1e-9)
    assert np.abs(charges(lora(stride=stride, lr=0.0), text) - still).max() > 1e-3


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-9), (False, 1e-5)])
def test_totals_do_not_depend_on_the_rows(double: bool, tolerance: float) -> None:
    text, model = text_of(documents()), built(LOOPED)
    model = model.double() if double else model
    one, three, many = (played(lora(rows=rows, **SECOND), text, model)[0].bits for rows in (1, 3, 64))
    assert three == pytest.approx(one, rel=tolerance) and many == pytest.approx(one, rel=tolerance)


class Share(DocumentLoRA):
    """Only the text batches of one of several processes."""

    rank_of, size_of = 0, 1

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        for section in super().sections(text, batch_tokens):
            tracks = [t for i, t in enumerate(section.batches) if i % self.size_of == self.rank_of]
            yield section._replace(batches=tracks)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("processes", [2, 4])
def test_totals_do_not_depend_on_who_plays_a_track(processes: int, warm: bool) -> None:
    text = text_of(documents(lengths=[5 + 3 * (i % 7) for i in range(9)]))
    whole, found = charges(lora(rows=1, keep_a=warm), text), np.zeros(text.num_targets)
    for rank in range(processes):
        share = Share(window=16, stride=5, rows=1, rank=2, lr=0.02, keep_a=warm)
        share.rank_of, share.size_of = rank, processes
        player = share.make_player(built(LOOPED).double(), VOCAB, select_device(), SINGLE_PROCESS)
        with pytest.raises(BitgolfError, match="scored target"):  # the targets of the other processes are not scored
            score(player, text, share, charges=found)
    assert found == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("settings", [{}, SECOND, {"rank": 0, "lr": 0.1}])
def test_it_learns_what_a_document_is_made_of(settings: dict[str, Any]) -> None:
    text = text_of(documents(lengths=[60] * 4))
    method = lora(**settings)
    bits, still = charges(method, text).sum(), charges(method.without_adaptation()(), text).sum()
    assert bits < 0.98 * still


def test_the_model_is_left_as_it_was() -> None:
    model = built(LOOPED)
    before, modules = {k: p.clone() for k, p in model.named_parameters()}, [k for k, _ in model.named_modules()]
    played(lora(), text_of(documents()), model)
    assert all(torch.equal(p, before[path]) and p.requires_grad for path, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert [path for path, _ in model.named_modules()] == modules


def test_a_player_that_cannot_be_made_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: LoRAPlayer, distributed: DistributedContext, kernels: SelectKernels | None) -> AdapterForward:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LoRAPlayer, "_forward", fails)
    model = built(LOOPED)
    modules = [path for path, _ in model.named_modules()]
    with pytest.raises(torch.OutOfMemoryError):
        LoRAPlayer(model, VOCAB, select_device(), lora())
    assert [path for path, _ in model.named_modules()] == modules
    model(torch.ones(1, 3, dtype=torch.int64))


# ---- the player without the referee --------------------------------------------------------------------------------


def test_settings_survive_as_json_and_impossible_ones_are_refused() -> None:
    node = part(DocumentLoRA, rank=96, alpha=144.0, target_modules=("head", "mlp"))
    method = from_json(node.to_json())()
    assert method.scale == 1.5 and method.target_modules == ("head", "mlp") and method.first_stride == method.stride
    for wrong in ({"rows": 0}, {"rank": -1}, {"steps": -1}, {"stride": 17}, {"rank": 0, "keep_a": True}, {"seed": -1}):
        with pytest.raises(RecipeError):
            lora(**wrong)
    with pytest.raises(RecipeError, match="no 'gate' to adapt"):
        LoRAPlayer(built(LOOPED).double(), VOCAB, select_device(), lora(target_modules=("gate",)))


# ---- short documents ---------------------------------------------------------------------------------------------------
