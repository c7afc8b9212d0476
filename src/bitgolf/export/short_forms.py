"""Short forms of functions, for a script whose recipe was checked when the script was made.

The functions that they replace check what users and untrusted files can get wrong, and explain it. A script has one
recipe, which is known to be right, and registers the classes that it needs before it starts. For right input, a short
form does exactly what the function does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def short_form_of(module: str) -> Callable[[F], F]:
    """Decorator: in scripts, the function takes the place of that of the same name in `module`."""
    return lambda function: function


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


@short_form_of("bitgolf.tokens.loading")
def load_tokenizer(path: Any) -> Any:
    """Return the tokenizer of a file."""
    from bitgolf.tokens.loading import tokenizer_from_bytes

    return tokenizer_from_bytes(path.read_bytes())


def open_sentencepiece(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for SentencePiece models."""
    from bitgolf.tokens.sentencepiece_tokenizer import SentencePieceTokenizer

    return SentencePieceTokenizer(proto)


def open_caseops(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for SentencePiece models of text with case operators."""
    from bitgolf.tokens.caseops_tokenizer import MAGIC, CaseOpsTokenizer

    return CaseOpsTokenizer(MAGIC + proto.removeprefix(MAGIC))


def open_bytes(proto: bytes, *, where: str = "") -> Any:
    """`tokenizer_from_bytes` of a script for tokens that are bytes."""
    from bitgolf.tokens.byte_tokenizer import ByteTokenizer

    return ByteTokenizer(proto)


@short_form_of("bitgolf.pipeline.training_warnings")
def warn_of_unused(log: Any, trainer: Any, epochs: float, tokens: int) -> None:
    """No warning."""


@short_form_of("bitgolf.pipeline.training_warnings")
def warn_of_divergence(log: Any, file: Any) -> None:
    """No warning: a script does not resume."""


@short_form_of("bitgolf.pipeline.training_warnings")
def warn_if_nothing_learnt(log: Any, file: Any) -> None:
    """No warning."""


@short_form_of("bitgolf.training.setup")
def _usage_rows(trainer: Any) -> list[Any]:
    """The usage of parts is stated by the run."""
    return []


@short_form_of("bitgolf.training.loop")
@contextmanager
def _deferred_signals() -> Iterator[list[str]]:
    """A signal ends a script."""
    yield []


@short_form_of("bitgolf.training.loop")
def restore(trainer: Any, folder: Any, report: Any, start: Any) -> Any:
    """A script does not resume."""
    return start


@short_form_of("bitgolf.score.evaluate")
def score_progress(name: str, context: Any, text: Any, clock: Any) -> Any:
    """No progress is shown."""
    return lambda done, targets, bits: None


@short_form_of("bitgolf.score.bit_breakdown")
def zero_charges(text: Any, tokenizer: Any) -> None:
    """A script reports totals only."""


@short_form_of("bitgolf.score.bit_breakdown")
def bit_breakdown(text: Any, charges: Any, tokenizer: Any, distributed: Any) -> None:
    """A script reports totals only."""


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


def no_calibration(*arguments: Any, **options: Any) -> Any:
    """What stands for calibration in a script whose recipe has none: it is never called."""


CALIBRATION = (
    ("bitgolf.pipeline.calibration", "calibrate_run"),
    ("bitgolf.quantize.calibration.stats_file", "load_calibration"),
    ("bitgolf.pipeline.calibration", "remaining_seconds"),
    ("bitgolf.pipeline.calibration", "measure_calibration_reserve"),
)
"""(module, name) of the functions that `no_calibration` replaces."""
