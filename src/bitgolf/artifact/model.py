"""Writing a quantized model to an artifact and loading it back. The artifact contains everything that loading needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from bitgolf import __version__
from bitgolf.artifact.container import Artifact, artifact_bytes, read_artifact, write_artifact
from bitgolf.artifact.limits import MAX_PARAMETERS, MAX_TOKENIZER, check_stored_recipe
from bitgolf.config.parse import from_json
from bitgolf.config.requirements import (
    MissingCodeError,
    Requirement,
    check_requirements,
    encode_requirements,
    missing_code_located,
    read_requirements,
    requirements,
)
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
from bitgolf.training.checkpoint_writer import first_nonfinite

TOKENIZER_CODER = part(SmallestCoder, coders=(part(Brotli), part(LZMA)))


class StoredRecipe(NamedTuple):
    """The fields of a recipe that an artifact stores, with their types."""

    model: Spec[LM]
    quantize: tuple[Spec[Rule[Codec]], ...]
    pack: Spec[Pack]
    score: tuple[Spec[ScoringMethod], ...]


class LoadedArtifact(NamedTuple):
    """A model loaded from an artifact. `digest` is the first 8 bytes of the file's SHA-256."""

    name: str
    recipe: StoredRecipe
    model: LM
    tokenizer: Tokenizer
    digest: bytes


STORED_FIELDS = StoredRecipe._fields
"""Names of the recipe fields that an artifact stores: those that decoding and scoring need."""

REQUIRES = "requires"
"""Key of the metadata with the `Requirement`s of the recipe as JSON text; absent if the package's own parts suffice."""


def write_model(path: Path, recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> Artifact:
    """Write an artifact with the encoded tensors, the tokenizer file and the stored fields of the recipe.

    Raises `RecipeError` for sizes above the limits of `load_model`.
    """
    return write_artifact(path, **_content(recipe, codes, tokenizer))


def pack_model(recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> Artifact:
    """The artifact that `write_model` would write, without writing a file. Used to determine its size."""
    return read_artifact(model_bytes(recipe, codes, tokenizer))


def model_bytes(recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> bytes:
    """The bytes of the artifact that `write_model` would write."""
    return artifact_bytes(**_content(recipe, codes, tokenizer))


def _content(recipe: Spec[Recipe], codes: Mapping[str, EncodedTensor], tokenizer: bytes) -> dict[str, Any]:
    """The arguments of `write_artifact`. Raises `RecipeError` for sizes above the limits of `load_model`."""
    built, whole = recipe(), recipe.to_json()
    fields = {name: whole[name] for name in STORED_FIELDS}
    check_stored_recipe(fields)
    vocab, pack = tokenizer_from_bytes(tokenizer).vocab, built.pack()
    model = build_on_meta(built.model, vocab)
    shapes, roles = {path: tuple(p.shape) for path, p in model.named_parameters()}, parameter_roles(model)
    models = context_models(shapes, roles, built.quantize)
    sections = pack_tensors(codes, pack.groups_by_path(roles), pack.coder, models)
    sections.append(pack_blob("tokenizer", tokenizer, TOKENIZER_CODER))
    meta = {"bitgolf": __version__, "name": built.name, "vocab": vocab}
    if needed := requirements(fields):
        meta[REQUIRES] = encode_requirements(needed)
    return {"recipe": fields, "meta": meta, "sections": sections}


def load_model(source: Path | bytes) -> LoadedArtifact:
    """Load a model from an artifact file or its bytes.

    Raises `CorruptFileError` if the artifact is invalid, `BitgolfError` if the file cannot be opened, and
    `MissingCodeError` if it needs a code file or a plugin that is not loaded.
    """
    return load_model_and_codes(source)[0]


def load_model_and_codes(source: Path | bytes) -> tuple[LoadedArtifact, dict[str, EncodedTensor]]:
    """`load_model`, and the codes of its tensors by path, as the codecs of the recipe wrote them."""
    data = source if isinstance(source, bytes) else _read_bytes(source)
    artifact, path = read_artifact(data), Path("artifact") if isinstance(source, bytes) else source
    with missing_code_located(path), _errors_as_corrupt_file(str(path)):
        return _load(artifact, hashlib.sha256(data).digest()[:8])


@contextmanager
def _errors_as_corrupt_file(where: str) -> Iterator[None]:
    """Convert each `BitgolfError` to a `CorruptFileError`, since the content of the file is its cause.

    Missing code is not the fault of the file.
    """
    try:
        yield
    except MissingCodeError:
        raise
    except BitgolfError as error:
        hint = error.hint if isinstance(error, CorruptFileError) else ""
        raise CorruptFileError(
            f"the artifact cannot be read: {error.message}",
            where=error.where or where,
            hint=hint or "copy or download the file again, or pack it again",
        ) from error


@contextmanager
def _errors_as_recipe_error() -> Iterator[None]:
    """Convert errors of torch and Python to `RecipeError`: parts are built from untrusted settings."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise RecipeError(f"its recipe cannot be built ({error})") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"the artifact cannot be read: {error.strerror}", where=str(path)) from error


def _load(artifact: Artifact, digest: bytes) -> tuple[LoadedArtifact, dict[str, EncodedTensor]]:
    recipe, vocab = stored_recipe(artifact), artifact.meta.get("vocab")
    if type(vocab) is not int or not 2 <= vocab <= 1 << 16:
        raise CorruptFileError(f"the vocabulary must have 2 to {1 << 16} tokens, got {vocab!r}")
    sections = dict(artifact.sections)
    if "tokenizer" not in sections:
        raise CorruptFileError(f"there is no section 'tokenizer' among {', '.join(sections):.200}")
    if (size := sections["tokenizer"].raw_bytes) > MAX_TOKENIZER:
        raise CorruptFileError(f"the tokenizer has {size:,} bytes, more than the limit of {MAX_TOKENIZER:,}")
    tokenizer = tokenizer_from_bytes(unpack_blob(sections.pop("tokenizer"), TOKENIZER_CODER))
    if tokenizer.vocab != vocab:
        raise CorruptFileError(f"the tokenizer has {tokenizer.vocab} tokens, the model {vocab}")
    with _errors_as_recipe_error():
        model = build_on_meta(recipe.model, vocab, tokenizer.bos)
        shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
        if (count := sum(p.numel() for p in model.parameters())) > MAX_PARAMETERS:
            raise CorruptFileError(f"the model has {count:,} parameters, more than the limit of {MAX_PARAMETERS:,}")
        roles, pack = parameter_roles(model), recipe.pack()
        groups, coder = pack.groups_by_path(roles), pack.coder
        arrays, models = layout(shapes, roles, recipe.quantize), context_models(shapes, roles, recipe.quantize)
    codes = unpack_tensors(sections, arrays, groups, coder, models)
    weights = decode_model(codes, shapes, roles, recipe.quantize)
    if bad := first_nonfinite(weights):
        raise CorruptFileError(f"the tensor {bad} has a value that is NaN or infinite")
    load_weights(model, weights)
    name = str(artifact.meta.get("name", ""))
    return LoadedArtifact(name, recipe, model.requires_grad_(False), tokenizer, digest), codes


def stored_recipe(artifact: Artifact) -> StoredRecipe:
    """The stored fields of an artifact's recipe. Nothing is built yet.

    Raises `CorruptFileError` for other fields, `RecipeError` for invalid parts and for sizes above the limits, and
    `MissingCodeError` if a part is of a code file or a plugin that is not loaded.
    """
    if set(artifact.recipe) != set(STORED_FIELDS):
        found, expected = sorted(artifact.recipe), sorted(STORED_FIELDS)
        raise CorruptFileError(f"the stored recipe has the fields {found}, expected {expected}")
    check_stored_recipe(artifact.recipe)
    check_requirements(artifact_requirements(artifact), artifact.recipe)
    hints = get_type_hints(StoredRecipe)
    return StoredRecipe(*(coerce(_parts(artifact.recipe[name]), hints[name], name) for name in STORED_FIELDS))


def artifact_requirements(artifact: Artifact) -> list[Requirement]:
    """What the recipe of an artifact needs besides this package. Raises `CorruptFileError` if the list is not valid."""
    stored = artifact.meta.get(REQUIRES, "[]")
    if not isinstance(stored, str):
        raise CorruptFileError(f"the list of the code that it needs must be a text, got {stored!r}")
    return read_requirements(stored)


def _parts(value: Any) -> Any:
    return tuple(map(from_json, value)) if isinstance(value, list) else from_json(value)
