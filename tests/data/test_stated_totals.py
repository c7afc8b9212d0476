"""A manifest whose totals are false: what a score divides by is counted again, and `data check` checks every number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgolf.data.manifest import load_manifest
from bitgolf.data.shards import sidecar_name, write_shard
from bitgolf.data.verify import verify_data
from bitgolf.errors import CorruptFileError
from bitgolf.files import read_json, write_json
from bitgolf.score.text import load_validation
from helpers.command_line import run_command
from helpers.damage import flip_bit
from helpers.toy_artifact import ToyArtifact, make_toy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ToyArtifact:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def shards(made: ToyArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.shards, tmp_path / "shards"))


def lie(shards: Path, **changes: Any) -> None:
    """Change totals of the validation split in the manifest."""
    manifest = read_json(shards / "manifest.json")
    manifest["val"] |= changes
    write_json(shards / "manifest.json", manifest)


def errors(shards: Path) -> list[str]:
    return [finding.message for finding in verify_data(shards) if finding.severity == "error"]


def test_twice_the_bytes_do_not_halve_the_score(made: ToyArtifact, shards: Path) -> None:
    stated = load_manifest(shards).val
    honest = run_command("score", str(made.artifact), "--shards", str(shards), "--with", "contiguous")
    assert honest.returncode == 0, honest.stderr
    lie(shards, encoded_bytes=2 * stated.encoded_bytes, raw_bytes=2 * stated.encoded_bytes)
    refused = run_command("score", str(made.artifact), "--shards", str(shards), "--with", "contiguous")
    assert refused.returncode == 1 and f"counted {stated.encoded_bytes:,} encoded_bytes" in refused.stderr
    assert "bpb" not in refused.stdout


NUMBERS = {"documents": 7, "tokens": 7, "encoded_bytes": 7, "raw_bytes": 7, "lost_bytes": 10**9, "sidecar_bytes": 7}


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_of_the_manifest_is_checked(shards: Path, key: str) -> None:
    assert errors(shards) == []
    lie(shards, **{key: NUMBERS[key]})
    assert any(key in message and str(NUMBERS[key]) in message for message in errors(shards))


def test_the_total_of_the_sidecars_is_counted(shards: Path) -> None:
    shard = next(shards.glob("val_*.bin"))
    tokens = load_manifest(shards).val.tokens
    write_shard(shards / sidecar_name(shard.name), np.full(tokens, 2, np.uint16))
    lie(shards, sidecar_bytes=2 * tokens)
    assert errors(shards) == []
    lie(shards, sidecar_bytes=2 * tokens + 1)
    assert any(f"counted {2 * tokens:,} sidecar_bytes" in message for message in errors(shards))


def test_a_score_is_of_the_shards_that_the_manifest_states(shards: Path) -> None:
    load_validation(shards)
    shard = next(shards.glob("val_*.bin"))
    shard.write_bytes(flip_bit(shard.read_bytes()))
    with pytest.raises(CorruptFileError, match="has changed since its manifest was written"):
        load_validation(shards)
