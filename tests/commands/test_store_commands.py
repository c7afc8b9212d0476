"""`bitgolf runs`, `compare` and `import`: what they show, remove and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitgolf.commands.list_runs import remove_runs
from bitgolf.config.recipe_file import read_recipe, write_recipe
from bitgolf.runtime.folder_lock import folder_lock
from bitgolf.store.entry import is_run
from helpers.command_line import run_command
from helpers.toy_run import finish

LOG = """\
val_loader:shards pattern=./data/datasets/fineweb10B_sp1024/fineweb_val_*.bin tokens:62021632
seed:{seed}
step:9950/20000 val_loss:1.9000 val_bpb:1.1012 train_time:597000ms step_avg:60.00ms
Total submission size int6+zstd: 15892000 bytes
final_int6_roundtrip_exact val_loss:1.87000000 val_bpb:{bpb} eval_time:91000ms
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def store(toy: Path, tmp_path: Path) -> Path:
    """A store with the runs a0, a1 of one recipe and b0, b1 of another, with scores of their own."""
    for name, seed, bpb in (("a", 0, 1.30), ("a", 1, 1.32), ("b", 0, 1.20), ("b", 1, 1.21)):
        folder = tmp_path / f"{name}{seed}"
        shutil.copytree(toy, folder)
        result = json.loads((folder / "score.json").read_text())
        result["bpb"] |= {"packed": bpb}
        result |= {"recipe": name}
        (folder / "score.json").write_text(json.dumps(result))
        if name == "b":
            recipe = read_recipe(folder / "recipe.json")
            write_recipe(folder / "recipe.json", recipe.set("train.steps", 9))
    return tmp_path


def test_runs_are_listed_and_sorted(store: Path) -> None:
    def names(*words: str) -> list[str]:
        result = run_command("runs", str(store), *words, "--json")
        assert result.returncode == 0, result.stderr
        return [run["folder"] for run in json.loads(result.stdout)["runs"]]

    assert names() == ["a0", "a1", "b0", "b1"]
    assert names("--sort", "bpb") == ["b0", "b1", "a0", "a1"] or names("--sort", "bpb")[0][0] == "b"
    assert names("--recipe", "b") == ["b0", "b1"]
    assert "1.20000" in run_command("runs", str(store)).stdout
    assert run_command("runs", str(store), "--sort", "color").returncode == 2
    assert run_command("runs", str(store / "none")).returncode == 2


def listed(store: Path, *words: str) -> list[list[object]]:
    result = run_command("runs", str(store), *words, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["values"]


def test_any_measure_is_a_column(store: Path) -> None:
    size = json.loads((store / "a0" / "score.json").read_text())["bytes"]["self_contained"]
    words = (
        "--columns",
        "seed,bytes.self_contained, train.steps,bpb.packed,train.optim.0.use,methods.0.method,quick,nothing.0",
    )
    refused = run_command("runs", str(store), *words)
    assert refused.returncode == 2 and "no run has the measure 'nothing.0'" in refused.stderr
    rows = listed(store, words[0], words[1].removesuffix(",nothing.0"), "--recipe", "b")
    assert [row[1:] for row in rows] == [[size, 9, bpb, rows[0][4], "contiguous", False] for bpb in (1.2, 1.21)]
    assert isinstance(rows[0][4], str) and rows[0][4].isidentifier()
    text = run_command("runs", str(store), "--columns", "name,bytes.self_contained,quick").stdout
    assert f"{size:,}" in text and "bytes.self_contained" in text and "false" in text


def test_runs_are_filtered_and_sorted_by_any_measure(store: Path) -> None:
    def names(*words: str) -> list[object]:
        return [row[0] for row in listed(store, "--columns", "name", *words)]

    assert names("--where", "bpb.packed<1.25") == names("--where", "train.steps>=9") == ["b0", "b1"]
    assert names("--where", "bpb.packed!=1.3", "--where", "recipe=a*") == ["a1"]
    assert names("--where", "state=done", "--where", "name=?0") == ["a0", "b0"]
    assert names("--where", "quick=true") == names("--where", "recipe=z") == []
    assert names("--sort", "bpb.packed") == ["b0", "b1", "a0", "a1"]
    assert names("--sort", "bpb.packed", "--descending") == ["a1", "a0", "b1", "b0"]
    (store / "b0" / "score.json").unlink()
    assert names("--sort", "bpb.packed", "--descending")[-1] == "b0", "without the measure"


@pytest.mark.parametrize("condition", ["", "bpb", "<1", "bpb<", "bpb<low", "bpb=<1", "color=1"])
def test_conditions_that_mean_nothing_are_refused(store: Path, condition: str) -> None:
    result = run_command("runs", str(store), "--where", condition)
    assert result.returncode == 2 and "--where" in result.stderr


def test_a_run_that_a_process_writes_to_is_not_removed(store: Path) -> None:
    words = ("--remove", str(store / "a0"), "--remove", str(store / "a1"), "--yes")
    with folder_lock(store / "a1"):
        result = run_command("runs", str(store), *words)
    assert result.returncode == 1 and "another process is writing to this folder" in result.stderr
    assert (store / "a0" / "score.json").exists() and (store / "a1" / "score.json").exists()
    assert run_command("runs", str(store), *words).returncode == 0
    assert not (store / "a0").exists() and not (store / "a1").exists()


def test_an_interrupted_removal_leaves_a_run_that_can_be_removed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, removed = Path.unlink, list[Path]()

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        if len(removed) == 3:
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", unlink)
        remove_runs([store / "a0"], confirmed=True)
    assert is_run(store / "a0")
    assert remove_runs([store / "a0"], confirmed=True).removed and not (store / "a0").exists()


def test_what_removing_frees_is_named_first(store: Path) -> None:
    size = sum(path.stat().st_size for path in (store / "a0").rglob("*") if path.is_file())
    named = run_command("runs", str(store), "--remove", str(store / "a0"))
    assert named.returncode == 0 and f"{size / 1e6:,.1f} MB would be removed; --yes removes them" in named.stdout
    assert (store / "a0").exists()
    both = ("--remove", str(store / "a0"), "--remove", str(store / "nothing"), "--yes")
    assert run_command("runs", str(store), *both).returncode == 2 and (store / "a0").exists()
    assert run_command("runs", str(store), "--remove", str(store / "a0"), "--yes").returncode == 0
    assert not (store / "a0").exists() and (store / "a1").exists()
    assert run_command("runs", str(store), "--yes").returncode == 2


def test_groups_are_compared(store: Path) -> None:
    result = run_command("compare", str(store / "a*"), f"{store / 'b0'},{store / 'b1'}", "--json")
    document = json.loads(result.stdout)
    first, second = document["groups"]
    assert first["test"] is None and second["test"]["method"] == "welch"
    assert first["measures"]["bpb packed"] == {
        "mean": pytest.approx(1.31),
        "deviation": pytest.approx(0.0141, abs=1e-4),
        "runs": 2,
    }
    assert [row["path"] for row in document["settings"][0]] == ["train.steps"]
    text = run_command("compare", str(store / "a*"), str(store / "b*")).stdout
    assert "1.31000 ± 0.01414" in text and "train.steps" in text and "bpb, p = " in text


def test_other_text_is_not_compared(store: Path) -> None:
    for name in ("b0", "b1"):
        path = store / name / "data" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["val"]["fingerprints"] = "another"
        path.write_text(json.dumps(manifest))
    document = json.loads(run_command("compare", str(store / "a*"), str(store / "b*"), "--json").stdout)
    assert document["groups"][1]["test"] is None and "other validation text" in document["notes"][0]


def record_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"val_bpb": 1.1022, "bytes_total": 15892000}')
    for seed, bpb in ((1, 1.1012), (2, 1.1032)):
        (folder / f"train_seed{seed}.log").write_text(LOG.format(seed=seed, bpb=bpb))
    return folder


def test_imported_logs_stand_beside_own_runs(store: Path, tmp_path: Path) -> None:
    source = record_folder(tmp_path / "records" / "2026-01-01_Name")
    result = run_command("import", str(tmp_path / "records"), "--out", str(store))
    assert result.returncode == 0 and "2 runs imported" in result.stdout
    listing = json.loads(run_command("runs", str(store), "--json").stdout)["runs"]
    imported = [run for run in listing if run["kind"] == "imported"]
    assert [(r["folder"], r["seed"], r["bpb"]["packed"], r["bytes"]) for r in imported] == [
        ("2026-01-01_Name-s1", 1, 1.1012, 15892000),
        ("2026-01-01_Name-s2", 2, 1.1032, 15892000),
    ]
    content = json.loads((store / "2026-01-01_Name-s1" / "imported.json").read_text())
    assert (content["behind_claim"], content["claimed_bpb"], content["step_seconds"]) == (True, 1.1022, 0.06)
    assert content["source"] == str(source)
    compared = run_command("compare", str(store / "a*"), str(store / "2026*"))
    assert "1.10220 ± 0.00141" in compared.stdout and "not compared" in compared.stdout
    again = run_command("import", str(tmp_path / "records"), "--out", str(store))
    assert again.returncode == 0 and len(json.loads(run_command("runs", str(store), "--json").stdout)["runs"]) == 6


def test_an_own_run_is_never_replaced(store: Path, tmp_path: Path) -> None:
    record_folder(tmp_path / "records" / "a")
    (store / "a0").rename(store / "a-s1")
    before = (store / "a-s1" / "inputs.json").read_bytes()
    result = run_command("import", str(tmp_path / "records"), "--out", str(store))
    assert result.returncode == 2 and "another run is there" in result.stderr
    assert (store / "a-s1" / "inputs.json").read_bytes() == before and not (store / "a-s2").exists()


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "submission.json").write_text("{}")
    result = run_command("import", str(tmp_path / "x"), "--out", str(tmp_path / "runs"))
    assert result.returncode == 1 and "no log of a run" in result.stdout and not (tmp_path / "runs").exists()


def test_a_comparison_is_written_as_a_page(store: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "ab.html"
    words = ("compare", str(store / "a*"), str(store / "b*"), "--page", str(page))
    document = json.loads(run_command(*words, "--json").stdout)
    text = page.read_text()
    assert document["page"] == str(page) and text.startswith("<!doctype html>")
    assert "1.31000" in text and "1.20500" in text and "train.steps" in text and "Training loss by step" in text
    again = run_command(*words)
    assert again.returncode == 0 and str(page) in "".join(again.stdout.split()) and page.read_text() == text


def test_a_page_replaces_nothing_else(store: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    for target, message in ((notes, "the file exists and is no page"), (store, "expected a file for the page")):
        result = run_command("compare", str(store / "a0"), "--page", str(target))
        assert result.returncode == 2 and message in result.stderr
    assert notes.read_text() == "mine"


def test_a_folder_stands_for_the_runs_below_it(store: Path) -> None:
    (store / "other").mkdir()
    (store / "a.txt").write_text("no run")

    def names(argument: str) -> list[str]:
        document = json.loads(run_command("compare", argument, "--json").stdout)
        return [Path(run["folder"]).name for run in document["groups"][0]["runs"]]

    assert names(str(store)) == ["a0", "a1", "b0", "b1"]
    assert names(str(store / "a*")) == names(f"{store / 'a0'},{store / 'a*'}") == ["a0", "a1"]
    assert "no run in this folder" in run_command("compare", str(store / "other")).stderr


def test_what_is_no_run_is_refused(store: Path) -> None:
    result = run_command("compare", str(store / "a0"), str(store / "nothing"))
    assert result.returncode == 2 and "no run in this folder" in result.stderr
