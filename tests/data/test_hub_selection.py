"""Names of published sets, the choice of files in a repository, and the waits that a server asks for."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.data.hub.published import PUBLISHED, PublishedSet, ShardSource, resolve_source
from bitgolf.data.hub.retries import requested_wait
from bitgolf.data.hub.selection import RemoteFile, select_files
from bitgolf.errors import UsageError
from helpers.command_line import run_command
from helpers.hub_repository import CASEOPS, REPOSITORY, SP1024, SP8192, TOKENIZERS, repository_files

LISTED = [RemoteFile(path, len(data)) for path, data in repository_files().items()]
LISTED += [RemoteFile(f"{SP8192}/fineweb_{split}_000000.bin", 1) for split in ("train", "val")]


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.variant)
def test_published_sets_are_found_in_their_layout(known: PublishedSet) -> None:
    source = resolve_source(known.name, known.variant)
    assert source == ShardSource(known.repository, variant=known.variant)
    folder = f"datasets/datasets/fineweb10B_{known.variant}"
    tokenizer = f"fineweb_{known.vocab}_bpe{known.variant.removeprefix(f'sp{known.vocab}')}.model"
    names = {tokenizer, *(f"fineweb_{vocab}_bpe.model" for vocab in (1024, 2048, 4096, 8192))}
    names.add("fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model")
    paths = [f"{folder}/fineweb_{split}_000000.bin" for split in ("train", "val")]
    files = [RemoteFile(path, 1) for path in (*paths, *(f"{TOKENIZERS}/{name}" for name in names))]
    chosen = select_files(files, source, None)
    assert chosen.folder == folder and chosen.tokenizer.name == tokenizer


def test_names_of_sources() -> None:
    assert resolve_source("fineweb10B").variant == "sp1024" and resolve_source("caseops").repository.startswith(
        "romeerp/"
    )
    assert resolve_source("a/b") == ShardSource("a/b") and resolve_source("a/b", "sp8") == ShardSource("a/b", "", "sp8")
    assert resolve_source("a/b:c/d/") == ShardSource("a/b", "c/d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("",), "is missing"),
        (("fineweb",), "unknown set of shards 'fineweb'"),
        (("fineweb10B", "sp3"), "has no variant 'sp3'"),
        (("fineweb10B:folder",), "needs the name of a repository"),
        (("a/b/c",), "not the name of a repository"),
        (("a/../b",), "not the name of a repository"),
        (("a/b:c", "sp8"), "has no effect"),
    ],
)
def test_wrong_names(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        resolve_source(*words)
    assert error.value.hint and error.value.where


def test_the_folder_is_the_named_one_that_of_the_variant_or_the_only_one() -> None:
    assert select_files(LISTED, ShardSource(REPOSITORY, folder=CASEOPS), 1).folder == CASEOPS
    assert select_files(LISTED, ShardSource(REPOSITORY, variant="sp8192"), 1).folder == SP8192
    only = [f for f in LISTED if f.folder in (SP1024, TOKENIZERS)]
    assert select_files(only, ShardSource(REPOSITORY), 1).tokenizer.name == "fineweb_1024_bpe.model"
    for source, message in [
        (ShardSource(REPOSITORY), "several folders have shards"),
        (ShardSource(REPOSITORY, "x"), "no shards are in the folder 'x'"),
        (ShardSource(REPOSITORY, variant="sp819"), "no shards are of the variant 'sp819'"),
    ]:
        with pytest.raises(UsageError, match=message) as error:
            select_files(LISTED, source, 1)
        assert SP1024 in error.value.hint
    with pytest.raises(UsageError, match="has no shards"):
        select_files([RemoteFile("README.md", 1)], ShardSource(REPOSITORY), 1)
    with pytest.raises(UsageError, match="no validation shards"):
        select_files([RemoteFile("train_0.bin", 1)], ShardSource(REPOSITORY), 1)


def test_the_tokenizer_is_beside_the_shards_or_fits_them_or_is_named() -> None:
    shards = [RemoteFile("x_sp5/train_0.bin", 1), RemoteFile("x_sp5/val_0.bin", 1)]
    beside, far, other = RemoteFile("x_sp5/any.model", 1), RemoteFile("t/a_5.model", 1), RemoteFile("t/b_5.model", 1)
    source = ShardSource(REPOSITORY)
    assert select_files([*shards, beside, far], source, 1).tokenizer == beside
    assert select_files([*shards, far, RemoteFile("t/a_6.model", 1)], source, 1).tokenizer == far
    assert select_files([*shards, far, other], source, 1, other.path).tokenizer == other
    for files, message in [
        ((far, other), "several tokenizers"),
        ((RemoteFile("t/a_6.model", 1),), "no tokenizer fits"),
    ]:
        with pytest.raises(UsageError, match=message) as error:
            select_files([*shards, *files], source, 1)
        assert "--tokenizer" in error.value.hint and files[0].path in error.value.hint
    with pytest.raises(UsageError, match="'t/c' is not in the repository"):
        select_files([*shards, far], source, 1, "t/c")


@given(st.permutations(LISTED), st.integers(0, 4))
def test_the_order_of_the_listing_does_not_matter(listed: list[RemoteFile], train_shards: int) -> None:
    chosen = select_files(listed, ShardSource(REPOSITORY, variant="sp1024"), train_shards)
    assert [f.name for f in chosen.train] == [f"fineweb_train_{i:06d}.bin" for i in range(train_shards)]
    assert len(chosen.val) == 1 and chosen.sidecars == () and chosen.available == 4
    assert len({f.name for f in chosen.files}) == len(chosen.files) == train_shards + 2


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=8))
def test_any_listing_is_chosen_from_or_refused(paths: list[str]) -> None:
    files = [*(RemoteFile(path, 1) for path in paths), *LISTED]
    for source in (ShardSource(REPOSITORY), ShardSource(REPOSITORY, variant="sp1024")):
        try:
            names = [f.name for f in select_files(files, source, None).files]
        except UsageError:
            continue
        assert all(name and "/" not in name and name not in (".", "..") for name in names)


@given(st.integers(0, 10**8))
def test_waits_are_read_from_numbers_dates_and_limits(seconds: int) -> None:
    assert requested_wait({"Retry-After": f" {seconds} "}) == seconds
    assert requested_wait({"ratelimit": f'"api";r=0;t={seconds}'}) == seconds
    assert requested_wait({"ratelimit": f'"api";r=3;t={seconds}'}) is None
    asked = requested_wait({"retry-after": formatdate(time.time() + seconds, usegmt=True)})
    assert asked is not None and abs(asked - seconds) < 60


@given(st.dictionaries(st.sampled_from(["Retry-After", "RateLimit"]), st.text(max_size=40)))
def test_any_header_is_read_or_ignored(headers: dict[str, str]) -> None:
    asked = requested_wait(headers)
    assert asked is None or asked >= 0


def test_the_list_of_published_sets() -> None:
    lines = run_command("data", "fetch", "--list").stdout.splitlines()
    assert len(lines) == 1 + len(PUBLISHED) and "80 (16.0 GB)" in lines[1]
    listed = json.loads(run_command("data", "fetch", "--list", "--json").stdout)
    assert [row["variant"] for row in listed] == [known.variant for known in PUBLISHED]
    missing = run_command("data", "fetch")
    assert missing.returncode == 2 and "--list" in missing.stderr
