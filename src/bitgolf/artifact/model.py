"""An artifact as a model: codes, recipe and tokenizer in one file, and back, with nothing else needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from bitgolf import __version__
from bitgolf.artifact.container import Artifact, artifact_bytes, read_artifact, write_artifact
from bitgolf.config.parse import from_json
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.config.validate import coerce
from bitgolf.errors import BitgolfError, CorruptFileError, RecipeError
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, parameter_roles
from bitgolf.pack.byte_coders import LZMA, Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.settings import Pack
from bitgolf.pack.streams import EncodedTensor, pack_blob, pack_tensors, unpack_blob, unpack_tensors
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.encoding import context_models, decode_model, layout
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ScoringMethod
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.tokenizer import Tokenizer

TOKENIZER_CODER = part(SmallestCoder, coders=(part(Brotli), part(LZMA)))
MAX_NUMBER, MAX_LAYERS, MAX_PARAMETERS = 1 << 24, 512, 1 << 30


class StoredRecipe(NamedTuple):
    """The part of a recipe that an artifact stores, with the types that reading relies on."""

    model: Spec[LM]
    quantize: tuple[Spec[Rule[Codec]], ...]
    pack: Spec[Pack]
    score: tuple[Spec[ScoringMethod], ...]


class LoadedArtifact(NamedTuple):
    """What an artifact holds, ready to predict. `digest` names the very file."""

    name: str
    recipe: StoredRecipe
    model: LM
    tokenizer: Tokenizer
    digest: bytes


STORED_FIELDS = StoredRecipe._fields
"""The fields of a recipe that an artifact stores: what decoding and scoring need."""


def write_model(path: Path, recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> Artifact:
    """Pack codes and tokenizer with the slices of the recipe that reading needs."""
    return write_artifact(path, **_content(recipe, codes, tokenizer))


def pack_model(recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> Artifact:
    """What `write_model` would write, without the file: for those who ask how large it would be."""
    return read_artifact(artifact_bytes(**_content(recipe, codes, tokenizer)))


def _content(recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> dict[str, Any]:
    """Recipe, meta and sections, as an artifact is made of them. Raises `RecipeError` for sizes that no reader accepts."""
    said, whole = recipe(), recipe.to_json()
    check_sizes(whole["model"])
    vocab, pack = tokenizer_from_bytes(tokenizer).vocab, said.pack()
    model = build_on_meta(said.model, vocab)
    shapes, kinds = {path: tuple(p.shape) for path, p in model.named_parameters()}, parameter_roles(model)
    sections = pack_tensors(codes, pack.groups_by_path(kinds), pack.coder, context_models(shapes, kinds, said.quantize))
    sections.append(pack_blob("tokenizer", tokenizer, TOKENIZER_CODER))
    meta = {"bitgolf": __version__, "name": said.name, "vocab": vocab}
    return {"recipe": {name: whole[name] for name in STORED_FIELDS}, "meta": meta, "sections": sections}


def load_model(source: Path | bytes) -> LoadedArtifact:
    """Read an artifact back. Raises `CorruptFileError` for anything that `write_model` would not have written."""
    data = source if isinstance(source, bytes) else _bytes(source)
    artifact = read_artifact(data)
    with _damage("artifact" if isinstance(source, bytes) else str(source)):
        return _load(artifact, hashlib.sha256(data).digest()[:8])


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Errors of what the file says are damage of the file."""
    try:
        yield
    except BitgolfError as error:
        raise CorruptFileError(
            f"the artifact cannot be read: {error.message}",
            where=error.where or where,
            hint=error.hint
            if isinstance(error, CorruptFileError) and error.hint
            else "get the file again, or pack it again",
        ) from error


@contextmanager
def _building() -> Iterator[None]:
    """While parts are built of a recipe that may say anything, what torch and Python refuse is an error of the recipe."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise RecipeError(f"its recipe cannot be built ({error})") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"cannot read it: {error.strerror}", where=str(path)) from error


def _load(artifact: Artifact, digest: bytes) -> LoadedArtifact:
    recipe, vocab = stored_recipe(artifact), artifact.meta.get("vocab")
    if type(vocab) is not int or not 2 <= vocab <= 1 << 16:
        raise CorruptFileError(f"an impossible vocabulary, {vocab!r}")
    sections = dict(artifact.sections)
    if "tokenizer" not in sections:
        raise CorruptFileError("there is no tokenizer")
    tokenizer = tokenizer_from_bytes(unpack_blob(sections.pop("tokenizer"), TOKENIZER_CODER))
    if tokenizer.vocab != vocab:
        raise CorruptFileError(f"the tokenizer has {tokenizer.vocab} tokens, the model {vocab}")
    with _building():
        model = build_on_meta(recipe.model, vocab, tokenizer.bos)
        shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
        if sum(p.numel() for p in model.parameters()) > MAX_PARAMETERS:
            raise CorruptFileError("the recipe's model is larger than any artifact may be")
        kinds, pack = parameter_roles(model), recipe.pack()
        groups, coder = pack.groups_by_path(kinds), pack.coder
        arrays, known = layout(shapes, kinds, recipe.quantize), context_models(shapes, kinds, recipe.quantize)
    codes = unpack_tensors(sections, arrays, groups, coder, known)
    load_weights(model, decode_model(codes, shapes, kinds, recipe.quantize))
    return LoadedArtifact(str(artifact.meta.get("name", "")), recipe, model.requires_grad_(False), tokenizer, digest)


def stored_recipe(artifact: Artifact) -> StoredRecipe:
    """The stored fields as parts, with sizes that cannot exhaust this machine before a single weight is read."""
    if set(artifact.recipe) != set(STORED_FIELDS):
        raise CorruptFileError(f"the recipe's slices are {sorted(artifact.recipe)}, not {sorted(STORED_FIELDS)}")
    check_sizes(artifact.recipe["model"])
    hints = get_type_hints(StoredRecipe)
    return StoredRecipe(*(coerce(_parts(artifact.recipe[name]), hints[name], name) for name in STORED_FIELDS))


def _parts(value: Any) -> Any:
    return tuple(map(from_json, value)) if isinstance(value, list) else from_json(value)


def check_sizes(model: Any) -> None:
    """Raises `RecipeError` where a number in the JSON form of a model is larger than a reader accepts. Other fields hold no
    sizes of what reading allocates: `pack.cap` may be any number."""
    if isinstance(model, dict):
        if isinstance(layers := model.get("layers"), int) and layers > MAX_LAYERS:
            raise RecipeError(
                f"{layers} layers are more than the {MAX_LAYERS} that an artifact may have", where="model"
            )
        for item in model.values():
            check_sizes(item)
    elif isinstance(model, list):
        for item in model:
            check_sizes(item)
    elif isinstance(model, int | float) and abs(model) > MAX_NUMBER:
        raise RecipeError(
            f"the number {model} is above {MAX_NUMBER:,}, the largest of an artifact's model", where="model"
        )
