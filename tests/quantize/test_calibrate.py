"""Calibration: sources, sums over processes, time limits, and the file of statistics."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import TokenStream, find_shards
from bitgolf.errors import CorruptFileError, FormatVersionError, RecipeError, UsageError
from bitgolf.quantize.calibration import calibrate
from bitgolf.quantize.calibration.calibrate import Calibrate, count_hessians
from bitgolf.quantize.calibration.sources import CalibrationContext, CalibrationSource, SelfGenerated, TrainingText
from bitgolf.quantize.calibration.stats_file import calibration_metadata, load_calibration, save_calibration
from bitgolf.quantize.stats import MatrixStats
from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext
from helpers.examples import examples
from helpers.process_groups import run_as_script
from helpers.toy import built, toy_model
from helpers.toy_training import FakeTime, make_data

LENGTH = 24
SOURCES: dict[str, Spec[CalibrationSource]] = {
    "text": part(TrainingText, batches=3, rows=2),
    "samples": part(SelfGenerated, sequences=5, length=0, rows=2, temperature=(0.5, 1.5)),
}


def subject(data: Path) -> CalibrationContext:
    manifest = load_manifest(data)
    return CalibrationContext(built(toy_model(), vocab=manifest.vocab), data, LENGTH, manifest.bos)


def measured(
    data: Path, source: Spec[CalibrationSource], distributed: DistributedContext = SINGLE_PROCESS, *, batches: int = 0
) -> dict[str, MatrixStats]:
    return Calibrate(source=source).collect(subject(data), distributed, batches=batches).stats


class Slow(TrainingText):
    """Seven batches of one row, each of which advances a fake clock; the first call takes longer."""

    def __init__(self, *, seconds: float, clock: FakeTime, first: float = 0.0) -> None:
        super().__init__(batches=7, rows=1)
        self.seconds, self.clock, self.late = seconds, clock, first

    def open(self, subject: CalibrationContext) -> Callable[[int], Tensor]:
        batch = super().open(subject)

        def slow(number: int) -> Tensor:
            self.clock.advance(self.seconds + self.late)
            self.late = 0.0
            return batch(number)

        return slow


# ---- two processes -----------------------------------------------------------------------------------------------


def process(rank: int, out: Path, data: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    distributed = DistributedContext(rank, 2, rank, backend="gloo")
    for name, source in SOURCES.items():
        save_calibration(out / f"{name}.{rank}", measured(data, source, distributed))
    slow = FakeTime()
    calibrate.time = slow  # pyright: ignore[reportAttributeAccessIssue]
    found = Calibrate(source=part(Slow, seconds=(5.0, 0.1)[rank], clock=slow)).collect(
        subject(data), distributed, seconds=12.0
    )
    save_calibration(out / f"slow.{rank}", found.stats, {"batches": found.batches})
    dist.destroy_process_group()


def main(out: Path, data: Path) -> int:
    processes = [get_context("fork").Process(target=process, args=(rank, out, data)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)
    return int(any(one.exitcode for one in processes))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The results of two processes, by `source.rank`."""
    out = tmp_path_factory.mktemp("many")
    run_as_script(__file__, out, data)
    return out


@pytest.mark.parametrize("name", SOURCES)
def test_many_processes_sum_to_one_with_the_union(many: Path, data: Path, name: str) -> None:
    """Two processes that share three batches have the statistics of one; the last generated batch is smaller."""
    one, got = measured(data, SOURCES[name]), load_calibration(many / f"{name}.0")
    half = measured(data, SOURCES[name].replace(**({"batches": 1} if name == "text" else {"sequences": 2})))
    assert one.keys() == got.keys() and count_hessians(one) == count_hessians(got) < len(one)
    for path, want in one.items():
        assert got[path].tokens == want.tokens == LENGTH * (6 if name == "text" else 5)
        scale = want.hessian.abs().max().item()
        torch.testing.assert_close(got[path].hessian, want.hessian, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(got[path].output_fisher, want.output_fisher, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(half[path].hessian, want.hessian, rtol=1e-3), "one batch would do as well"


@pytest.mark.parametrize("name", SOURCES)
def test_every_process_has_the_same_bits(many: Path, name: str) -> None:
    assert (many / f"{name}.0").read_bytes() == (many / f"{name}.1").read_bytes()


def test_two_processes_stop_together(many: Path, data: Path) -> None:
    """Rank 0 has time for two rounds of 5 s in 12 s; rank 1 alone would have done all four rounds."""
    assert (many / "slow.0").read_bytes() == (many / "slow.1").read_bytes()
    assert calibration_metadata(many / "slow.0") == {"batches": 4}
    got, want = load_calibration(many / "slow.0"), measured(data, part(TrainingText, batches=7, rows=1), batches=4)
    for path, stats in want.items():
        assert got[path].tokens == stats.tokens == 4 * LENGTH
        scale = stats.hessian.abs().max().item()
        torch.testing.assert_close(got[path].hessian, stats.hessian, rtol=1e-4, atol=1e-5 * scale)


def test_uses_of_rows_in_the_whole_text_are_the_prior_of_tables_alone(data: Path) -> None:
    """Statistics of matrices that are no tables are those of the calibration text."""
    source = part(TrainingText, batches=1, rows=1, length=8)
    with_prior = Calibrate(source=source).collect(subject(data)).stats
    without = Calibrate(source=source, usage_tokens=0).collect(subject(data)).stats
    for path, stats in with_prior.items():
        assert torch.equal(stats.output_fisher, without[path].output_fisher) == (path != "embed.weight"), path


def test_a_process_without_a_batch_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="4 processes cannot share 3 batches"):
        Calibrate(source=SOURCES["text"]).collect(subject(data), DistributedContext(world_size=4))


# ---- the clock ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(calibrate, "time", fake)
    return fake


@pytest.mark.parametrize(
    ("seconds", "batches"), [(math.inf, 7), (35.0, 7), (34.9, 6), (10.0, 2), (9.9, 1), (1.0, 1), (-3.0, 1)]
)
def test_no_batch_is_begun_that_would_end_too_late(data: Path, clock: FakeTime, seconds: float, batches: int) -> None:
    """The first batch is always observed. The result equals that of a source with the observed number of batches."""
    done: list[tuple[int, int]] = []
    source = part(Slow, seconds=5.0, clock=clock)
    found = Calibrate(source=source).collect(subject(data), progress=lambda *at: done.append(at), seconds=seconds)
    assert (found.batches, found.seconds) == (batches, 5.0 * batches)
    assert done == [(n, 7) for n in range(1, batches + 1)]
    again = Calibrate(source=source).collect(subject(data), batches=found.batches)
    assert again.batches == batches and all(
        torch.equal(again.stats[p].hessian, s.hessian) for p, s in found.stats.items()
    )


def test_a_reserve_is_what_the_batches_take(data: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is warm-up; the reductions over processes and the transfer to the CPU are included."""
    means = calibrate.matrix_stats
    monkeypatch.setattr(calibrate, "matrix_stats", lambda *given: (clock.advance(0.25), means(*given))[1])
    before = torch.get_rng_state()
    reserve = Calibrate(source=part(Slow, seconds=5.0, clock=clock, first=50.0)).estimate_reserve(subject(data))
    assert reserve == (7, 5.0, 0.25) and reserve.seconds == pytest.approx(1.1 * 35.25)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UsageError, match="9 processes cannot share 7 batches"):
        Calibrate(source=part(Slow, seconds=5.0, clock=clock)).estimate_reserve(
            subject(data), DistributedContext(world_size=9)
        )


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_can_be_timed(data: Path, name: str) -> None:
    """Three batches on two processes are two rounds."""
    calibration = Calibrate(source=SOURCES[name])
    reserve = calibration.estimate_reserve(subject(data))
    assert reserve.rounds == 3 and reserve.round_seconds > 0 and reserve.fixed_seconds > 0
    assert calibration.rounds(DistributedContext(world_size=2), 3) == 2


# ---- sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_one_seed_gives_one_file(data: Path, tmp_path: Path, name: str) -> None:
    files = [tmp_path / str(i) for i in range(3)]
    for file, source in zip(files, [SOURCES[name]] * 2 + [SOURCES[name].replace(seed=43)], strict=True):
        save_calibration(file, measured(data, source))
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_the_training_text_is_read_in_windows_that_do_not_overlap(data: Path) -> None:
    batch = TrainingText(batches=4, rows=3).open(subject(data))
    stream = TokenStream(find_shards(data, "train"))
    text = stream.window(0, len(stream) + LENGTH).astype("<u2").tobytes()
    places = set()
    for number in range(4):
        ids = batch(number)
        assert ids.shape == (3, LENGTH) and ids.dtype == torch.int64
        for row in ids.numpy():
            at = text.find(row.astype("<u2").tobytes())
            assert at >= 0
            places.add(at // 2)
    starts = sorted(places)
    assert len(starts) == 12 and all(b - a >= LENGTH for a, b in pairwise(starts))
    assert TrainingText(rows=2, length=7).open(subject(data))(0).shape == (2, 7)


def test_a_long_row_of_training_is_not_read_at_once(data: Path) -> None:
    """Calibration rows are limited to 2,048 tokens, as in published runs that trained on rows of 98,304."""
    long = subject(data)._replace(train_length=98_304)
    assert TrainingText(batches=1, rows=1).open(long)(0).shape == (1, 2048)
    assert [long.row_length(0), long.row_length(4096), subject(data).row_length(0)] == [2048, 4096, LENGTH]


def test_own_samples_follow_the_model_as_hot_as_they_are_told(data: Path) -> None:
    """At a temperature near 0 nearly all tokens are the most likely ones; at a high temperature few are."""
    about = subject(data)
    batch = SelfGenerated(sequences=7, length=0, rows=4, temperature=(0.001, 50.0)).open(about)
    ids = torch.cat([batch(0), batch(1)])
    assert ids.shape == (7, LENGTH) and (ids[:, 0] == about.bos).all() and len(set(ids[:, 1].tolist())) > 3
    with torch.no_grad():
        likeliest = about.model(ids).argmax(2)[:, 1:-1]
    right = (likeliest == ids[:, 2:]).float().mean(1)
    assert (right[0::2] > 0.95).all() and (right[1::2] < 0.3).all()
    batch = SelfGenerated(sequences=4, length=0, rows=2).open(about)
    assert not torch.equal(batch(0), batch(1)), "batches draw by their numbers"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingText(batches=0), "batches must be at least 1, got 0"),
        (lambda: TrainingText(length=1), "2 to 8,192 tokens, .*, got 1"),
        (lambda: TrainingText(length=98_304), "2 to 8,192 tokens, or 0 for the training length, got 98,304"),
        (lambda: SelfGenerated(sequences=0), "sequences must be at least 1, got 0"),
        (lambda: SelfGenerated(length=-5), "2 to 8,192 tokens, .*, got -5"),
        (lambda: SelfGenerated(temperature=()), "temperatures must be above 0"),
        (lambda: SelfGenerated(temperature=(0.5, 0.0)), "temperatures must be above 0"),
        (lambda: Calibrate(reserve=-1.0), "reserve must be at least 0 seconds, got -1"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


# ---- the file ----------------------------------------------------------------------------------------------------


def statistics(widths: list[int], owners: list[int]) -> dict[str, MatrixStats]:
    generator = torch.Generator().manual_seed(len(owners))
    inputs = [torch.randn(c, c, generator=generator) for c in widths]
    return {
        f"blocks.{i}:w": MatrixStats(inputs[o % len(inputs)], torch.rand(i + 1, generator=generator), 7 + i)
        for i, o in enumerate(owners)
    }


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=examples(30), deadline=None)
def test_what_is_saved_is_loaded_with_what_is_shared(
    tmp_path_factory: pytest.TempPathFactory, widths: list[int], owners: list[int]
) -> None:
    path, stats = tmp_path_factory.mktemp("file") / "c.safetensors", statistics(widths, owners)
    save_calibration(path, stats)
    got = load_calibration(path)
    assert got.keys() == stats.keys() and count_hessians(got) == count_hessians(stats)
    for name, want in stats.items():
        assert torch.equal(got[name].hessian, want.hessian) and torch.equal(got[name].output_fisher, want.output_fisher)
        assert got[name].tokens == want.tokens


def test_matrices_of_one_input_share_a_hessian(data: Path, tmp_path: Path) -> None:
    stats = measured(data, SOURCES["text"])
    save_calibration(tmp_path / "c", stats)
    for known in (stats, load_calibration(tmp_path / "c")):
        q, k, v, o = (known[f"blocks.1.mixer.{name}.weight"].hessian for name in ("q", "k", "v", "out"))
        assert q is k is v and o is not q
    held = sum(s.hessian.nbytes for s in stats.values())
    assert (tmp_path / "c").stat().st_size < 0.9 * held


@given(st.data())
@settings(max_examples=examples(100), deadline=None)
def test_a_damaged_file_is_said_to_be_one(tmp_path_factory: pytest.TempPathFactory, chance: st.DataObject) -> None:
    """A truncated file or a changed header byte gives an error that names the file, or valid statistics."""
    path = tmp_path_factory.mktemp("file") / "c.safetensors"
    save_calibration(path, statistics([3, 2], [0, 1, 0]))
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    if chance.draw(st.booleans()):
        path.write_bytes(whole[: chance.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(CorruptFileError, match="calibration") as raised:
            load_calibration(path)
        assert str(path) in str(raised.value) and "--from calibrate" in str(raised.value)
        return
    at = chance.draw(st.integers(0, header - 1))
    path.write_bytes(whole[:at] + bytes([chance.draw(st.integers(0, 255))]) + whole[at + 1 :])
    try:
        for stats in load_calibration(path).values():
            assert stats.hessian.shape[0] == stats.hessian.shape[1] and stats.tokens > 0
    except CorruptFileError as error:
        assert error.where == str(path)


@pytest.mark.parametrize(
    "stats",
    [
        {"w": MatrixStats(torch.ones(2, 3), torch.ones(2), 5)},
        {"w": MatrixStats(torch.ones(3, 3), torch.ones(2, 1), 5)},
        {"w": MatrixStats(torch.ones(3, 3).double(), torch.ones(2), 5)},
        {"w": MatrixStats(torch.full((3, 3), torch.nan), torch.ones(2), 5)},
        {"w": MatrixStats(torch.ones(3, 3), torch.full((2,), torch.inf), 5)},
        {"w": MatrixStats(torch.ones(3, 3), torch.ones(2), 0)},
    ],
)
def test_statistics_that_are_none_are_not_loaded(tmp_path: Path, stats: dict[str, MatrixStats]) -> None:
    save_calibration(tmp_path / "c", stats)
    with pytest.raises(CorruptFileError, match=r"\(w: (Hessian .*expected float32|statistics are not finite)"):
        load_calibration(tmp_path / "c")


def test_a_file_of_another_format_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "c"
    for metadata, number in (('{"about":{},"matrices":{}}', "no format number"), ('{"format":3}', "format 3")):
        save_file({"x": torch.ones(2)}, path, {"calibration": metadata})
        for read in (load_calibration, calibration_metadata):
            with pytest.raises(FormatVersionError, match=f"{number}; this version reads format 2") as caught:
                read(path)
            assert caught.value.where == str(path)


def test_what_was_saved_beside_a_damaged_file_is_not_nothing(tmp_path: Path) -> None:
    assert calibration_metadata(tmp_path / "none") == {}
    (tmp_path / "c").write_bytes(b"not at all")
    with pytest.raises(CorruptFileError, match="--from calibrate"):
        calibration_metadata(tmp_path / "c")


def test_a_missing_file_and_one_of_something_else(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CorruptFileError, match="cannot be read"):
        load_calibration(tmp_path / "none")
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(CorruptFileError, match="not a valid calibration file"):
        load_calibration(tmp_path / "other")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
