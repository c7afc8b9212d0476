"""A training that diverges, and one that learns nothing: what is kept, and what is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bitgolf.config.spec import Spec
from bitgolf.pipeline.training import TrainingJob, train_rank
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.log import RunLog
from bitgolf.training import checkpoint
from bitgolf.training.loss_reporter import Diverged
from bitgolf.training.trainer import Trainer
from helpers.toy_training import short_recipe


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if e["event"] == kind]


def train(run: Path, data: Path, recipe: Spec[Recipe], *, resume: bool = False) -> None:
    log = RunLog(run, quiet=True)
    try:
        train_rank(TrainingJob(recipe=recipe, data=data, folder=run, resume=resume), log)
    finally:
        log.close()


def diverge_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one step is NaN."""
    original = Trainer.step

    def broken(self: Trainer, number: int, progress: Any) -> torch.Tensor:
        loss = original(self, number, progress)
        return loss * math.nan if number == step else loss

    monkeypatch.setattr(Trainer, "step", broken)


def test_at_the_first_step_no_checkpoint_is_promised(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_at(0, monkeypatch)
    with pytest.raises(Diverged, match="nan at step 1") as caught:
        train(tmp_path, data, short_recipe(every=0.0))
    assert "no checkpoint was written before" in caught.value.hint and "--resume" not in caught.value.hint
    assert checkpoint.load_latest(tmp_path / "checkpoint") is None


def test_later_the_last_good_checkpoint_is_kept(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge_at(4, monkeypatch)
    with pytest.raises(Diverged, match="nan at step 5") as caught:
        train(tmp_path, data, short_recipe(every=0.0))
    assert "the checkpoint after step 4 is kept" in caught.value.hint and "again" in caught.value.hint
    kept = checkpoint.load_latest(tmp_path / "checkpoint")
    assert kept and kept.step == 4
    with pytest.raises(Diverged):
        train(tmp_path, data, short_recipe(every=0.0), resume=True)
    (warning,) = [e["message"] for e in events(tmp_path, "warning") if "diverged before" in e["message"]]
    assert "(the loss is nan at step 5)" in warning


def test_a_training_that_learns_nothing_warns(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "good", data, short_recipe(steps=12))
    assert not [e for e in events(tmp_path / "good", "warning") if "no lower" in e["message"]]
    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n, progress: original(self, n, progress) * 0 + 5.0 + n)
    train(tmp_path / "bad", data, short_recipe(steps=12))
    (warning,) = [e["message"] for e in events(tmp_path / "bad", "warning") if "no lower" in e["message"]]
    assert "5.0000 nats per token at the start, 16.0000 at the end" in warning
