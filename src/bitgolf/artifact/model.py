"""An artifact as a model: codes, recipe and tokenizer in one file, and back, with nothing else needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf import __version__
from bitgolf.artifact.container import Artifact, artifact_bytes, read_artifact, write_artifact
from bitgolf.config.recipe import Recipe
from bitgolf.config.registry import from_json
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part, register
from bitgolf.errors import BitgolfError, DamagedError, RecipeError
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, roles
from bitgolf.pack.coders import Brotli, Lzma, Smallest
from bitgolf.pack.settings import Pack
from bitgolf.pack.streams import Code, pack_blob, pack_codes, unpack_blob, unpack_codes
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.encoding import decode_all, layout, walks
from bitgolf.score.methods import Method
from bitgolf.tokens.loading import open_tokenizer
from bitgolf.tokens.tokenizer import Tokenizer

SLICES = ("model", "quantize", "pack", "score")  # of the recipe: what decoding and scoring need
TOKENIZER = part(Smallest, coders=(part(Brotli), part(Lzma)))
LARGEST_NUMBER, MOST_LAYERS, MOST_PARAMETERS = 1 << 24, 512, 1 << 30


class Loaded(NamedTuple):
    """What an artifact holds, ready to predict. `digest` names the very file."""

    name: str
    recipe: dict[str, Any]
    model: LM
    tokenizer: Tokenizer
    digest: bytes


def write(path: Path, recipe: Spec[Recipe], codes: Mapping[str, Code], tokenizer: bytes) -> Artifact:
    """Pack codes and tokenizer with the slices of the recipe that reading needs."""
    return write_artifact(path, **_content(recipe, codes, tokenizer))


def packed(recipe: Spec[Recipe], codes: Mapping[str, Code], tokenizer: bytes) -> Artifact:
    """What `write` would write, without the file: for those who ask how large it would be."""
    return read_artifact(artifact_bytes(**_content(recipe, codes, tokenizer)))


def _content(recipe: Spec[Recipe], codes: Mapping[str, Code], tokenizer: bytes) -> dict[str, Any]:
    """Recipe, meta and sections, as an artifact is made of them."""
    whole, pack = recipe.to_json(), recipe["pack"]()
    vocab = open_tokenizer(tokenizer).vocab
    model = build_on_meta(recipe["model"], vocab)
    shapes, kinds = {path: tuple(p.shape) for path, p in model.named_parameters()}, roles(model)
    sections = pack_codes(codes, pack.grouped(kinds), pack.coder, walks(shapes, kinds, recipe["quantize"]))
    sections.append(pack_blob("tokenizer", tokenizer, TOKENIZER))
    meta = {"bitgolf": __version__, "name": recipe["name"], "vocab": vocab}
    return {"recipe": {name: whole[name] for name in SLICES}, "meta": meta, "sections": sections}


def load(source: Path | bytes) -> Loaded:
    """Read an artifact back. Raises `DamagedError` for anything that `write` would not have written."""
    data = source if isinstance(source, bytes) else _bytes(source)
    place = "artifact" if isinstance(source, bytes) else str(source)
    artifact = read_artifact(data)
    try:
        return _load(artifact, hashlib.sha256(data).digest()[:8])
    except (BitgolfError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:  # a recipe may say anything
        error = error if isinstance(error, BitgolfError) else BitgolfError(f"its recipe cannot be built ({error})")
        raise DamagedError(
            f"the artifact cannot be read: {error.cause}",
            place=error.place or place,
            mend="get the file again, or pack it again",
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitgolfError(f"cannot read it: {error.strerror}", place=str(path)) from None


def _load(artifact: Artifact, digest: bytes) -> Loaded:
    recipe, vocab = _recipe(artifact), artifact.meta.get("vocab")
    if not isinstance(vocab, int) or not 2 <= vocab <= 1 << 16:
        raise DamagedError(f"an impossible vocabulary, {vocab!r}")
    sections = dict(artifact.sections)
    if "tokenizer" not in sections:
        raise DamagedError("there is no tokenizer")
    tokenizer = open_tokenizer(unpack_blob(sections.pop("tokenizer"), TOKENIZER))
    if tokenizer.vocab != vocab:
        raise DamagedError(f"the tokenizer has {tokenizer.vocab} tokens, the model {vocab}")
    model = build_on_meta(recipe["model"], vocab, tokenizer.bos)
    shapes = {path: tuple(p.shape) for path, p in model.named_parameters()}
    if sum(p.numel() for p in model.parameters()) > MOST_PARAMETERS:
        raise DamagedError("the recipe's model is larger than any artifact may be")
    kinds = roles(model)
    rules, pack = recipe["quantize"], recipe["pack"]()
    known = walks(shapes, kinds, rules)
    codes = unpack_codes(sections, layout(shapes, kinds, rules), pack.grouped(kinds), pack.coder, known)
    load_weights(model, decode_all(codes, shapes, kinds, rules))
    return Loaded(str(artifact.meta.get("name", "")), recipe, model.requires_grad_(False), tokenizer, digest)


def _recipe(artifact: Artifact) -> dict[str, Any]:
    """The slices as parts, with sizes that cannot exhaust this machine before a single weight is read."""
    if set(artifact.recipe) != set(SLICES):
        raise DamagedError(f"the recipe's slices are {sorted(artifact.recipe)}, not {sorted(SLICES)}")
    _check_numbers(artifact.recipe)
    tree = from_json({"part": "Slices", **artifact.recipe})
    return dict(tree.kwargs)


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        if isinstance(layers := value.get("layers"), int) and layers > MOST_LAYERS:
            raise RecipeError(f"{layers} layers are more than an artifact may have")
        for item in value.values():
            _check_numbers(item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, int | float) and abs(value) > LARGEST_NUMBER:
        raise RecipeError(f"the number {value} is too large")


@register
class Slices:
    """The slices of a recipe that an artifact carries, with the types that reading relies on."""

    def __init__(
        self,
        *,
        model: Spec[LM],
        quantize: tuple[Spec[Rule[Codec]], ...],
        pack: Spec[Pack],
        score: tuple[Spec[Method], ...],
    ) -> None:
        self.model, self.quantize, self.pack, self.score = model, quantize, pack, score
