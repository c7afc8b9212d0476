"""The published sets of the Parameter Golf challenge, and what a name on the command line refers to.

The repositories and their layout are those of the challenge's downloader (data/cached_challenge_fineweb.py of
openai/parameter-golf). Which files there are is always listed from the repository, never from this table.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from bitgolf.errors import UsageError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHARD_BYTES = 200_001_024  # 100 million tokens


class PublishedSet(msgspec.Struct, frozen=True):
    """A published set of shards with its tokenizer.

    vocab: size of the vocabulary. train_shards: number of training shards that published logs state, None if unknown.
    """

    name: str
    variant: str
    repository: str
    vocab: int
    train_shards: int | None
    description: str

    @property
    def gigabytes(self) -> float | None:
        """Approximate size of the training shards in GB (10^9 bytes), None if unknown."""
        return None if self.train_shards is None else self.train_shards * _SHARD_BYTES / 1e9


PUBLISHED = (
    PublishedSet("fineweb10B", "sp1024", "willdepueoai/parameter-golf", 1024, 80, "baseline of the challenge"),
    PublishedSet("fineweb10B", "sp4096", "kevclark/parameter-golf", 4096, None, "SentencePiece, as sp1024"),
    PublishedSet("fineweb10B", "sp8192", "kevclark/parameter-golf", 8192, 128, "SentencePiece, as sp1024"),
    PublishedSet(
        "caseops",
        "sp8192_lossless_caps_caseops_v1_reserved",
        "romeerp/parameter-golf-caseops-v1",
        8192,
        80,
        "operators for capitals, with byte sidecars",
    ),
)


class ShardSource(msgspec.Struct, frozen=True):
    """Where shards are published. folder: path in the repository, or "" to find it by `variant` ("": the only one)."""

    repository: str
    folder: str = ""
    variant: str = ""


def resolve_source(name: str, variant: str = "") -> ShardSource:
    """Return the source that a name means: a set of `PUBLISHED`, `owner/name`, or `owner/name:folder`.

    Raises `UsageError` for an unknown name or variant, and for a variant of a folder.
    """
    if not name:
        hint = "`bitgolf data fetch --list` lists the published sets; any other repository is written owner/name"
        raise UsageError("the name of a set or of a repository is missing", where="NAME", hint=hint)
    name, _, folder = name.partition(":")
    folder = folder.strip("/")
    if folder and variant:
        message = f"--variant {variant!r} has no effect with the folder {folder!r}"
        raise UsageError(message, where="--variant", hint="leave out --variant or the folder")
    if "/" not in name:
        return _known_source(name, variant, folder)
    if not REPOSITORY.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a repository", where="NAME", hint="write it as owner/name")
    return ShardSource(name, folder, variant)


def _known_source(name: str, variant: str, folder: str) -> ShardSource:
    """Return the source of a published set. The first variant in `PUBLISHED` is the default."""
    variants = {known.variant: known for known in PUBLISHED if known.name == name}
    if not variants:
        names = sorted({known.name for known in PUBLISHED})
        near = difflib.get_close_matches(name, names, 1, 0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        hint += "`bitgolf data fetch --list` lists the known names; any other repository is written owner/name"
        raise UsageError(f"unknown set of shards {name!r}", where="NAME", hint=hint)
    if folder:
        message = f"a folder, {folder!r}, needs the name of a repository, got the published set {name}"
        raise UsageError(message, where="NAME", hint="write owner/name:folder")
    if variant and variant not in variants:
        hint = f"--variant {' or '.join(variants)}; for another, write owner/name instead of {name}"
        raise UsageError(f"{name} has no variant {variant!r}", where="--variant", hint=hint)
    known = variants[variant] if variant else next(iter(variants.values()))
    return ShardSource(known.repository, variant=known.variant)
