"""Training in Python: the run is that of the command, and the program around it is left as it was."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import bitgolf
from bitgolf.api.recipes import open_recipe
from bitgolf.config.code_files import unload_code
from bitgolf.config.recipe_file import write_recipe
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError, UsageError
from bitgolf.pipeline.stages import STAGE_NAMES
from bitgolf.training.trainer import Trainer
from helpers.command_line import run_command
from helpers.torch_state import torch_state
from helpers.toy_run import scalable_recipe
from helpers.toy_training import make_data

RECIPE = scalable_recipe()
STEPS = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> bitgolf.RunFolder:
    """A finished run; what it leaves of the program's state is compared here."""
    torch.rand(3)
    before, threads = torch_state(), set(threading.enumerate())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    made = bitgolf.train(RECIPE, shards=shards, out=tmp_path_factory.mktemp("run") / "run", progress=False)
    assert torch_state() == before and set(threading.enumerate()) == threads
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    return made


# ---- results --------------------------------------------------------------------------------------------------------


def test_a_run_has_the_results_of_the_command(run: bitgolf.RunFolder, shards: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe.json", RECIPE)
    done = run_command("run", str(tmp_path / "recipe.json"), "--shards", str(shards), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    other = bitgolf.open_run(tmp_path / "run")
    assert other.score == run.score and set(run.score) == {"trained", "averaged", "packed"}
    assert other.artifact.read_bytes() == run.artifact.read_bytes()
    assert [row.loss for row in other.log] == [row.loss for row in run.log]


def test_a_run_shows_its_results(run: bitgolf.RunFolder) -> None:
    assert run.stages == list(STAGE_NAMES) and run.recipe == RECIPE and run.seed == 0
    assert run.result.steps == STEPS and run.result.bpb["packed"] == run.score["packed"]
    assert run.result.bpb["adapted"] is None and "adapted" not in run.score
    assert "<html" in run.report.read_text()
    assert run.model().bpb(b"some text") == bitgolf.load(run.folder).bpb("some text") > 0
    assert repr(run).startswith(
        f"RunFolder({str(run.folder)!r}: toy, trained "
    ) and f"packed {run.score['packed']:.4f}" in repr(run)


def test_the_log_is_a_table_of_steps(run: bitgolf.RunFolder) -> None:
    assert [row.step for row in run.log] == list(range(1, STEPS + 1))
    columns = run.log.columns
    assert list(columns) == ["step", "loss", "tokens", "training_seconds"]
    assert columns["loss"][-1] < columns["loss"][0] and columns["tokens"] == [128 * i for i in range(1, STEPS + 1)]
    assert columns["training_seconds"] == sorted(columns["training_seconds"])
    kinds = [event["event"] for event in run.events]
    assert kinds[0] == "run" and kinds.count("step") == STEPS and "stage_done" in kinds


def test_a_repeated_call_reuses_every_stage(
    run: bitgolf.RunFolder, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = bitgolf.train(RECIPE, shards=str(shards), out=str(run.folder))
    assert capsys.readouterr().err.count("unchanged, reused") == len(STAGE_NAMES)
    assert again.folder == run.folder and again.score == run.score


class NotebookStream(io.StringIO):
    """Standard error of a notebook's kernel: no terminal, and no file of the system."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def isatty(self) -> bool:
        return False


def test_messages_go_to_the_stream_of_a_notebook_or_nowhere(
    run: bitgolf.RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = NotebookStream()
    monkeypatch.setattr("sys.stderr", stream)
    bitgolf.train(run.folder, progress=False)
    run.model().bpb(b"some text", progress=False)
    assert stream.getvalue() == ""
    bitgolf.train(run.folder)
    assert "train: unchanged, reused" in stream.getvalue()


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_limits_and_settings_change_the_recipe(shards: Path, tmp_path: Path) -> None:
    changes = {"train.rows": 2, "model.block.mlp.act": bitgolf.part(bitgolf.parts.SquaredReLU)}
    run = bitgolf.train(
        RECIPE,
        shards=shards,
        seconds=300,
        steps=2,
        set=changes,
        seed=3,
        out=tmp_path / "run",
        device="cpu",
        progress=False,
    )
    expected = RECIPE.set("train.seconds", 300.0).set("train.steps", 2)
    for path, value in changes.items():
        expected = expected.set(path, value)
    assert run.recipe == expected and run.seed == 3 and run.result.steps == 2


def test_a_setting_may_be_named_by_a_short_path_and_scoring_left_out(shards: Path, tmp_path: Path) -> None:
    run = bitgolf.train(
        RECIPE, shards=shards, steps=1, set={"mlp.hidden": 40}, score_tokens=0, out=tmp_path / "run", progress=False
    )
    assert run.recipe["model.block.mlp.hidden"] == 40
    assert run.score == {} and repr(run).endswith("toy, done, not scored)") and run.model().bpb(b"some text") > 0


def test_a_quick_recipe_is_a_toy(run: bitgolf.RunFolder) -> None:
    from bitgolf.recipes.quick import quick

    wanted = quick(bitgolf.recipe("baseline"))
    assert bitgolf.recipe("baseline", quick=True) == wanted != bitgolf.recipe("baseline")
    assert open_recipe(bitgolf.recipe("baseline"), quick=True) == open_recipe("baseline", quick=True) == (None, wanted)
    with pytest.raises(UsageError, match="not that of the run in this folder"):
        bitgolf.train(run.folder, quick=True)


def test_a_recipe_of_a_file_with_a_part_of_its_own(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "my_api_recipe.py").write_text(
        "import bitgolf\n"
        "from bitgolf.config.registry import register\n"
        "from bitgolf.parts import SquaredReLU\n"
        "@register\n"
        "class MyActivation(SquaredReLU):\n"
        "    pass\n"
    )
    try:
        bitgolf.load_code(tmp_path / "my_api_recipe.py")
        changed = RECIPE.set("model.block.mlp.act", bitgolf.part(bitgolf.parts.MyActivation))  # type: ignore[attr-defined]
        made = bitgolf.train(changed, shards=shards, steps=1, out=tmp_path / "run", progress=False)
        assert made.model().recipe.model["block.mlp.act"].name == "MyActivation"
    finally:
        unload_code("my_api_recipe")
    with pytest.raises(BitgolfError, match=r"my_api_recipe\.py"):
        bitgolf.load(tmp_path / "run")


def test_text_is_a_path_or_several(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(30):
        (corpus / f"{i:02d}.txt").write_text(f"a text of number {i} " * (20 + i))
    recipe = RECIPE.set("tokens.vocab", 264)
    single = bitgolf.train(recipe, text=str(corpus), out=tmp_path / "a", progress=False)
    several = bitgolf.train(recipe, text=sorted(corpus.glob("*.txt")), out=tmp_path / "b", progress=False)
    assert single.score == several.score


def test_a_recipe_that_is_a_value_is_no_folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a folder has its name. The folder of its run is named as by the command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    run = bitgolf.train(RECIPE, shards=shards, steps=1, progress=False)
    assert (
        run.folder.parent == Path("runs")
        and run.folder.name.startswith("toy-")
        and not list((tmp_path / "toy").iterdir())
    )
    assert bitgolf.open_run("latest").folder == run.folder and bitgolf.load("latest").path == run.artifact
    assert bitgolf.recipe("latest") == run.recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "quickstrat"}, "no recipe named 'quickstrat'"),
        ({"recipe": bitgolf.recipe("quickstart")["model"]}, "expected a recipe, got the part LM"),
        ({"set": {"model.hight": 3}}, "no path 'model.hight'"),
        ({"set": {"model.dim": "wide"}}, "model.dim: expected a whole number, got 'wide'"),
        ({"seconds": -1}, "train.seconds: must be"),
        ({"from_stage": "tain"}, "unknown stage 'tain'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"text": "missing.txt", "shards": None}, "missing.txt"),
        ({"text": "missing.txt"}, "exclude each other"),
        ({"key": "body"}, "no effect without --text"),
        ({"tokenizer": "missing.model"}, "missing.model"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(
    arguments: dict[str, Any], message: str, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(BitgolfError) as error:
        bitgolf.train(**{"recipe": RECIPE, "shards": shards, "out": tmp_path / "run", "progress": False} | arguments)
    assert message in str(error.value) and isinstance(error.value, UsageError | RecipeError)
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_system_is_a_bitgolf_error(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BitgolfError, match=r"not a folder|folder is expected"):
        bitgolf.train(RECIPE, shards=shards, out=tmp_path / "file" / "run", progress=False)


def test_a_damaged_run_is_an_error(run: bitgolf.RunFolder, tmp_path: Path) -> None:
    for name in ("recipe.json", "inputs.json", "stages.json", "score.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    (tmp_path / "score.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"score\.json"):
        _ = bitgolf.open_run(tmp_path).result
    assert len(bitgolf.open_run(tmp_path).log) == 0


# ---- interrupts -----------------------------------------------------------------------------------------------------


def test_an_interrupt_leaves_a_run_that_can_be_resumed(
    run: bitgolf.RunFolder, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def interrupted(trainer: Trainer, number: int, progress: Any) -> torch.Tensor:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, number, progress)

    before, threads = torch_state(), set(threading.enumerate())
    with (
        torch.no_grad(),
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt, match="after step 4; resume=True continues"),
    ):
        patch.setattr(Trainer, "step", interrupted)
        bitgolf.train(RECIPE, shards=shards, out=tmp_path / "run", progress=False)
    assert torch_state() == before and set(threading.enumerate()) == threads
    stopped = bitgolf.open_run(tmp_path / "run")
    assert stopped.stages == ["prepare"] and len(stopped.log) == 4 and "done up to prepare" in repr(stopped)
    for result in ("score", "artifact", "report", "result"):
        with pytest.raises(UsageError, match=r"(?s)not reached the stage .* resume=True"):
            getattr(stopped, result)
    with pytest.raises(UsageError, match="unfinished training"):
        bitgolf.train(RECIPE, shards=shards, out=tmp_path / "run", progress=False)
    resumed = bitgolf.train(RECIPE, shards=shards, out=tmp_path / "run", resume=True, progress=False)
    assert resumed.score == run.score and [row.loss for row in resumed.log] == [row.loss for row in run.log]
    assert stopped.score == run.score, "an open run shows what the folder has now"
