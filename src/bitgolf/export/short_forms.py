"""Short forms of functions, for a script whose recipe was checked when the script was made.

The functions that they replace check what users and untrusted files can get wrong, and explain it. A script has one
recipe, which is known to be right, and registers the classes that it needs before it starts. For right input, a short
form does exactly what the function does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any] | type)


def short_form_of(module: str) -> Callable[[F], F]:
    """Decorator: in scripts, the function takes the place of that of the same name in `module`."""
    return lambda function: function  # classes, too


@short_form_of("bitgolf.errors")
class BitgolfError(Exception):
    """An error with its message alone."""

    def __init__(self, message: str = "", **others: str) -> None:
        self.message = message


@short_form_of("bitgolf.config.registry")
def register(cls: type) -> type:
    """Register a class under its name."""
    from bitgolf.config.registry import REGISTRY

    REGISTRY[cls.__name__] = cls
    return cls


@short_form_of("bitgolf.config.registry")
def lookup(name: str) -> type:
    """Return the registered class of that name."""
    from bitgolf.config.registry import REGISTRY

    return REGISTRY[name]


@short_form_of("bitgolf.config.spec")
def schema(cls: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return argument -> (None, default). A script has no annotations."""
    import inspect

    own = inspect.signature(cls).parameters.values()
    return {p.name: (None, p.default) for p in own if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


@short_form_of("bitgolf.config.spec")
def make_node(cls: Callable[..., Any], kwargs: Mapping[str, Any], where: str) -> Any:
    """Return a node with the defaults of its class; an integer becomes a float where the default is one."""
    from bitgolf.config.spec import Spec, schema

    full = dict[str, Any]()
    for key, (_, default) in schema(cls).items():
        value = kwargs.get(key, default)
        full[key] = float(value) if type(value) is int and type(default) is float else value
    return Spec(cls, full)


@short_form_of("bitgolf.config.requirements")
def requirements(recipe: Any) -> list[Any]:
    """A script has no parts of other packages."""
    return []


@short_form_of("bitgolf.artifact.limits")
def check_stored_recipe(fields: Mapping[str, Any]) -> None:
    """The recipe is that of the script."""


@short_form_of("bitgolf.artifact.model")
def stored_recipe(artifact: Any) -> Any:
    """Return the stored fields of an artifact's recipe."""
    from bitgolf.artifact.model import STORED_FIELDS, StoredRecipe, _parts

    return StoredRecipe(*(_parts(artifact.recipe[name]) for name in STORED_FIELDS))


@short_form_of("bitgolf.config.requirements")
@contextmanager
def missing_code_located(path: Any) -> Iterator[None]:
    """No code can be missing."""
    yield


@short_form_of("bitgolf.config.paths")
def nearest_paths(path: str, known: Any) -> str:
    """No hint."""
    return ""


@short_form_of("bitgolf.config.paths")
def class_by_path(recipe: Any) -> dict[str, str]:
    """Only hints need it."""
    return {}


@short_form_of("bitgolf.runtime.machine_code")
def compile_functions(*functions: Any) -> tuple[Any, ...]:
    """Return the functions compiled by numba, at each start of the script."""
    from types import FunctionType

    import numba

    namespace = dict(functions[0].__globals__)
    for function in functions:
        copy = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
        namespace[function.__name__] = numba.njit(nogil=True, cache=False, fastmath=False)(copy)
    return tuple(namespace[function.__name__] for function in functions)


class OpenedTokenizer:
    """What a script needs of a tokenizer. byte_lengths: bytes of each token."""

    def __init__(self, serialized: bytes, bos: int, byte_lengths: Any) -> None:
        self.serialized, self.bos, self.byte_lengths, self.vocab = serialized, bos, byte_lengths, len(byte_lengths)

    def count_bytes(self, ids: Any) -> Any:
        return self.byte_lengths[ids]


class OpenedCaseOps(OpenedTokenizer):
    """What a script needs of a tokenizer with case operators. pieces: bytes of each token, none for boundaries."""

    def __init__(self, serialized: bytes, bos: int, pieces: list[bytes]) -> None:
        import numpy as np

        super().__init__(serialized, bos, np.array(list(map(len, pieces))))
        self.pieces = pieces

    def count_bytes(self, ids: Any) -> Any:
        import numpy as np

        documents = np.split(ids, np.flatnonzero(self.byte_lengths[ids] == 0))
        return np.concatenate(list(map(self.count_document, documents)))

    def count_document(self, ids: Any) -> Any:
        """Return the bytes of text that each token of one document accounts for, without those of operators."""
        import numpy as np

        from bitgolf.text.caseops import text_byte_mask

        kept = text_byte_mask(b"".join(map(self.pieces.__getitem__, ids)))
        before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
        return np.diff(before[np.cumsum([0, *self.byte_lengths[ids]])])


def _pieces(model: Any) -> list[bytes]:
    """Return the bytes of each token of a SentencePiece model, none for tokens without text."""

    def piece(token: int) -> bytes:
        text = model.id_to_piece(token)
        if model.is_byte(token):
            return bytes([int(text[3:5], 16)])
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            return b""
        return text.replace("\u2581", " ").encode()

    return list(map(piece, range(len(model))))


def open_sentencepiece(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for SentencePiece models."""
    import numpy as np
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=proto)
    return OpenedTokenizer(proto, model.bos_id(), np.array(list(map(len, _pieces(model)))))


def open_caseops(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for SentencePiece models of text with case operators."""
    from sentencepiece import SentencePieceProcessor

    from bitgolf.tokens.caseops_tokenizer import MAGIC

    proto = proto.removeprefix(MAGIC)
    model = SentencePieceProcessor(model_proto=proto)
    return OpenedCaseOps(MAGIC + proto, model.bos_id(), _pieces(model))


def open_bytes(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for tokens that are bytes."""
    from bitgolf.tokens.byte_tokenizer import ByteTokenizer

    return ByteTokenizer(proto)


@short_form_of("bitgolf.tokens.loading")
def load_tokenizer(path: Any) -> Any:
    """Return the tokenizer of a file."""
    from bitgolf.tokens.loading import tokenizer_from_bytes

    return tokenizer_from_bytes(path.read_bytes())


@short_form_of("bitgolf.config.glob")
def compile_glob(pattern: str) -> Any:
    """Return a pattern with a method `matches`: `**.` for any segments, `**` for anything, `*` within a segment."""
    import re
    from types import SimpleNamespace

    forms = {"**.": r"(.*\.)?", "**": ".*", "*": r"[^.]*"}
    tokens = re.findall(r"\*\*\.|\*\*|.", pattern, re.DOTALL)
    text = "".join(forms.get(token) or re.escape(token) for token in tokens)
    return SimpleNamespace(matches=re.compile(text, re.DOTALL).fullmatch)


@short_form_of("bitgolf.data.shard_header")
def read_token_count(path: Any) -> int:
    """Return the number of tokens in the header of a shard."""
    import numpy as np

    return int(np.fromfile(path, "<i4", 3)[2])


@short_form_of("bitgolf.data.manifest")
def load_manifest(folder: Any) -> Any:
    """Return what `link_shards` wrote: vocab, bos, and the folder of the shards."""
    import json
    from types import SimpleNamespace

    return SimpleNamespace(**json.loads((folder / "manifest.json").read_bytes()))


@short_form_of("bitgolf.data.manifest")
def open_split(folder: Any, split: str) -> Any:
    """Return the tokens of all shards of a split."""
    from pathlib import Path

    from bitgolf.data.manifest import load_manifest
    from bitgolf.data.shards import TokenStream, find_shards

    return TokenStream(find_shards(Path(load_manifest(folder).shards_folder), split))


@short_form_of("bitgolf.artifact.container")
def _dump(header: Any) -> bytes:
    """Return the header of an artifact as JSON."""
    import msgspec

    return msgspec.json.encode(header, order="deterministic")


@short_form_of("bitgolf.artifact.container")
def _parse(text: bytes) -> Any:
    """Return the header of an artifact."""
    import json

    from bitgolf.artifact.container import _Header, _SectionRecord

    recipe, meta, sections = map(json.loads(text).get, ("recipe", "meta", "sections"))
    return _Header(recipe, meta, [_SectionRecord(*row) for row in sections])


@short_form_of("bitgolf.config.rules")
def _explain_unmatched(rule: Any, index: int, built: Any, roles: Any) -> str:
    """Every rule matches."""
    return ""


@short_form_of("bitgolf.files")
@contextmanager
def atomic_write(path: Any) -> Iterator[Any]:
    """Open a file of the script's own folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        yield handle
