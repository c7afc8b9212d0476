"""Totals are equal on one, two and four processes (gloo, CPU), for all batch sizes and numbers of sections."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from bitgolf.artifact.model import load_model
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.pipeline.scoring import ScoringJob, run_scoring_job, score_in_workers
from bitgolf.report.progress import Progress
from bitgolf.runtime import launch
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bitgolf.score.evaluate import ScoringContext, evaluate_method
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring, TextSection, batch_windows
from bitgolf.score.result import MethodResult
from bitgolf.score.text import TokenizedText, tokenize_documents
from bitgolf.text.documents import read_documents
from helpers.forked import run_forked_workers
from helpers.process_groups import run_as_script, run_in_processes
from helpers.toy import VOCAB, built, toy_model
from helpers.toy_artifact import ToyArtifact, make_toy

CPU = Device(torch.device("cpu"), torch.float32, "a test")
Rows = dict[str, dict[str, Any]]


class InChunks(SlidingScoring):
    """Sliding windows in sections of about 70 targets; a section ends with a whole window."""

    def sections(self, text: TokenizedText, batch_tokens: int) -> Iterator[TextSection]:
        windows = [w for start, stop in self.text_spans(text) for w in self.windows(stop - start, start)]
        for _, group in groupby(windows, key=lambda w: w.first_target // 70):
            own = list(group)
            yield TextSection(own[0].first_target, own[-1].stop, batch_windows(own, batch_tokens))


METHODS: dict[str, Spec[ScoringMethod]] = {
    "contiguous": part(ContiguousScoring, window=16),
    "sliding": part(SlidingScoring, window=16, stride=5),
    "chunks": part(InChunks, window=16, stride=5),
    "isolated": part(SlidingScoring, window=16, stride=5, isolated=True),
    "isolated chunks": part(InChunks, window=16, stride=5, isolated=True),
}
BATCHES = (1, 64, 10_000)
TARGETS = 160
PRECISIONS = ("float64", "float32")


def text() -> TokenizedText:
    ids = np.random.default_rng(0).integers(2, VOCAB, TARGETS)
    ids[[0, 3, 47, 120, 121]] = 1
    return TokenizedText(np.append(ids, 1), 400)


def rows(distributed: DistributedContext) -> Rows:
    """Results for each precision, method and batch size, by `precision/method/batch`."""
    torch.set_num_threads(1)
    models = {"float64": built(toy_model()).double(), "float32": built(toy_model())}
    found: Rows = {}
    for (precision, model), (name, method), batch in product(models.items(), METHODS.items(), BATCHES):
        shown = [Progress("none", details=(f"0 of {TARGETS} targets",))]
        context = ScoringContext(
            model, VOCAB, text(), CPU, distributed=distributed, batch_tokens=batch, show=shown.append
        )
        row = msgspec.to_builtins(evaluate_method(context, method))
        own = int(shown[-1].details[-1].split(" of ")[0])  # this process's targets, from its last progress
        found[f"{precision}/{name}/{batch}"] = {**row, "own": own}
    return found


# ---- totals and shares -------------------------------------------------------------------------------------------


def start(out: Path) -> int:
    def write(distributed: DistributedContext) -> None:
        (out / f"{distributed.world_size}.{distributed.rank}.json").write_text(json.dumps(rows(distributed)))

    return run_in_processes(write, out)


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The results of every process, by `world_size.rank`."""
    out = tmp_path_factory.mktemp("shares")
    run_as_script(__file__, out)
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


@pytest.fixture(scope="module")
def alone() -> Rows:
    return rows(SINGLE_PROCESS)


TOTALS = ("bits", "bpb", "bytes", "targets", "tokens_read")


def totals(found: dict[str, Any] | MethodResult) -> dict[str, Any]:
    row = found if isinstance(found, dict) else msgspec.to_builtins(found)
    return {key: row[key] for key in TOTALS}


@pytest.mark.slow
def test_every_process_of_every_world_has_the_totals_of_one(shared_out: dict[str, Rows], alone: Rows) -> None:
    """Exactly, also in float32: a text batch gives the same bits on every rank, and batches are summed in order."""
    assert sorted(shared_out) == ["2.0", "2.1", "4.0", "4.1", "4.2", "4.3"]
    for name, found in shared_out.items():
        assert {key: row["processes"] for key, row in found.items()} == dict.fromkeys(alone, int(name[0]))
        assert {key: totals(row) for key, row in found.items()} == {key: totals(row) for key, row in alone.items()}


def test_the_work_is_shared(shared_out: dict[str, Rows], alone: Rows) -> None:
    for key, row in alone.items():
        assert row["own"] == row["targets"] == TARGETS
        for size in (2, 4):
            own = [shared_out[f"{size}.{rank}"][key]["own"] for rank in range(size)]
            assert sum(own) == TARGETS and (not key.endswith("/1") or max(own) < 1.5 * TARGETS / size)


@pytest.mark.parametrize(("precision", "near"), [("float64", 1e-9), ("float32", 1e-5)])
def test_neither_batches_nor_sections_change_a_total(alone: Rows, precision: str, near: float) -> None:
    for names in (("contiguous",), ("sliding", "chunks"), ("isolated", "isolated chunks")):
        bits = [alone[f"{precision}/{name}/{batch}"]["bits"] for name in names for batch in BATCHES]
        assert bits == pytest.approx([bits[0]] * len(bits), rel=near)
        assert bits[0] > TARGETS, "each target must cost more than a bit on average"


def test_both_precisions_are_one_model(alone: Rows) -> None:
    for name in METHODS:
        bits = [alone[f"{precision}/{name}/64"]["bits"] for precision in PRECISIONS]
        assert bits[0] == pytest.approx(bits[1], rel=1e-5) and bits[0] != bits[1]


# ---- an artifact, under torchrun -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


def test_two_processes_score_an_artifact_as_one_does(toy: ToyArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    loaded = load_model(toy.artifact)
    source = tokenize_documents((d.data for d in read_documents([toy.raw])), loaded.tokenizer)
    methods: tuple[Spec[ScoringMethod], ...] = (
        part(ContiguousScoring, window=32),
        part(SlidingScoring, window=32, stride=8, isolated=True),
    )
    job = ScoringJob(artifact=toy.artifact, text=source, methods=methods, batch_tokens=64, exact=True)
    two, one = run_scoring_job(job, loaded, processes=2), run_scoring_job(job, loaded)
    assert [totals(row) for row in two] == [totals(row) for row in one]
    assert [(row.processes, row.method) for row in two] == [(2, "contiguous"), (2, "sliding")]


def test_the_error_of_a_worker_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_run", run_forked_workers)
    job = ScoringJob(artifact=tmp_path / "none.bg", text=text(), methods=(), device="cpu")
    with pytest.raises(BitgolfError, match=r"artifact cannot be read") as caught:
        score_in_workers(job, processes=1)
    assert caught.value.where.endswith("none.bg")


if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1])))
