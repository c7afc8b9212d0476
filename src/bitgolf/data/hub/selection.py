"""Which files of a repository make a folder of shards: the shards, their byte sidecars, and the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from bitgolf.data.hub.published import ShardSource
from bitgolf.errors import UsageError

_TOKENIZER = re.compile(r"(?i).+\.model|tokenizer.*\.json|.*byte.*\.json")
_SHOWN_FOLDERS = 12


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository.

    path: in the repository. size: in bytes. sha256: of the content, "" if the file is not stored with Git LFS; then
    blob_sha1, the identifier of the Git blob, is the only digest that the hub states.
    """

    path: str
    size: int
    sha256: str = ""
    blob_sha1: str = ""

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Path of the folder in the repository, "" for its root."""
        return self.path.rpartition("/")[0]


class Selection(msgspec.Struct, frozen=True):
    """The files to fetch from one folder of a repository.

    tokenizer: file of the tokenizer. available: number of training shards that the folder has.
    """

    folder: str
    train: tuple[RemoteFile, ...]
    val: tuple[RemoteFile, ...]
    sidecars: tuple[RemoteFile, ...]
    tokenizer: RemoteFile
    available: int

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """All files: first the tokenizer and the validation data, which the first training shard needs to be used."""
        return (self.tokenizer, *self.val, *self.sidecars, *self.train)


def shard_split(name: str) -> str:
    """Return the split of a shard by its file name: "train", "val", or "" if the name is not that of a shard.

    The rule is that of `data.shards.find_shards`: a name that ends with .bin and belongs to the split named last.
    """
    words = [word for word in re.findall("[a-z]+", name) if word in ("train", "val")]
    return words[-1] if words and name.endswith(".bin") and not name.startswith(".") else ""


def is_sidecar(name: str) -> bool:
    """Whether a file with the name of a shard states the bytes of each token instead of tokens (`*_bytes_*`)."""
    return "_bytes_" in name


def select_files(
    files: Sequence[RemoteFile], source: ShardSource, train_shards: int | None, tokenizer: str = ""
) -> Selection:
    """Choose the files of a source: the first training shards by name, all validation shards, sidecars, tokenizer.

    train_shards: number of training shards, None for all. tokenizer: its path in the repository, "" to find it.
    Raises `UsageError` if the folder or the tokenizer is not found or ambiguous, or has too few training shards.
    """
    folder = _choose_folder(files, source)
    inside = sorted((f for f in files if f.folder == folder and shard_split(f.name)), key=lambda f: f.name)
    shards = [f for f in inside if not is_sidecar(f.name)]
    train = [f for f in shards if shard_split(f.name) == "train"]
    val = [f for f in shards if shard_split(f.name) == "val"]
    where = f"{source.repository}:{folder}"
    if not val:
        raise UsageError("the folder has training shards, but no validation shards", where=where)
    if train_shards is not None and train_shards > len(train):
        message = f"--train-shards {train_shards} is more than the {len(train)} training shards that are published"
        raise UsageError(message, where=where, hint=f"give at most {len(train)}, or leave out --train-shards for all")
    chosen = (*train[:train_shards], *val)
    names = {f.name for f in chosen}
    sidecars = [f for f in inside if is_sidecar(f.name) and f.name.replace("_bytes_", "_", 1) in names]
    return Selection(
        folder=folder,
        train=chosen[: len(chosen) - len(val)],
        val=tuple(val),
        sidecars=tuple(sidecars),
        tokenizer=_choose_tokenizer(files, source, folder, tokenizer),
        available=len(train),
    )


def _choose_folder(files: Iterable[RemoteFile], source: ShardSource) -> str:
    """Return the folder of the shards: the one that is named, that of the variant, or the only one."""
    folders = sorted({f.folder for f in files if shard_split(f.name) and not is_sidecar(f.name)})
    if not folders:
        raise UsageError("the repository has no shards (such as train_000000.bin)", where=source.repository)
    if source.folder:
        found, problem = [f for f in folders if f == source.folder], f"no shards are in the folder {source.folder!r}"
    elif source.variant:
        found = [f for f in folders if _is_variant(f, source.variant)]
        problem = f"no shards are of the variant {source.variant!r}"
    else:
        found, problem = folders, ""
    if len(found) != 1:
        shown = ", ".join(repr(f) for f in (found or folders)[:_SHOWN_FOLDERS])
        hint = f"name one of the folders of shards as {source.repository}:FOLDER: {shown}"
        raise UsageError("several folders have shards" if found else problem, where=source.repository, hint=hint)
    return found[0]


def _is_variant(folder: str, variant: str) -> bool:
    """Whether a folder is that of a variant: `fineweb10B_sp1024` is that of `sp1024`."""
    last = folder.rpartition("/")[2]
    return last == variant or last.endswith(f"_{variant}")


def _choose_tokenizer(files: Iterable[RemoteFile], source: ShardSource, folder: str, path: str) -> RemoteFile:
    """Return the tokenizer: the file that is named, the only one beside the shards, or the one with matching words."""
    candidates = sorted((f for f in files if _TOKENIZER.fullmatch(f.name)), key=lambda f: f.path)
    if path:
        found = [f for f in files if f.path == path]
    else:
        beside = [f for f in candidates if f.folder == folder]
        found = beside if len(beside) == 1 else _best_match(beside or candidates, source.variant or _variant_of(folder))
    if len(found) != 1:
        problem = "several tokenizers fit the shards" if found else "no tokenizer fits the shards"
        shown = ", ".join(f.path for f in (found or candidates)[:_SHOWN_FOLDERS]) or "the repository has none"
        message = f"the file {path!r} is not in the repository" if path else problem
        raise UsageError(
            message, where=source.repository, hint=f"--tokenizer takes its path in the repository: {shown}"
        )
    return found[0]


def _variant_of(folder: str) -> str:
    """Return the variant that a folder is named after: `sp1024` for `fineweb10B_sp1024`."""
    last = folder.rpartition("/")[2]
    return last.partition("_")[2] or last


def _best_match(candidates: Iterable[RemoteFile], variant: str) -> list[RemoteFile]:
    """Return the tokenizers whose names have all words of the variant, and the fewest other ones.

    Words are runs of letters or of digits; `sp`, which stands for SentencePiece, is in no published name of a model.
    """
    needed = _words(variant) - {"sp"}
    fitting = [f for f in candidates if needed and needed <= _words(f.name)]
    fewest = min((len(_words(f.name)) for f in fitting), default=0)
    return [f for f in fitting if len(_words(f.name)) == fewest]


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z]+|[0-9]+", name.lower()))
