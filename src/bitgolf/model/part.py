"""What every part of a model may know: where it sits (`Place`), what flows past (`Bus`), and how parts are built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.spec import Place, Spec, part_name, register
from bitgolf.errors import DamagedError, RecipeError
from bitgolf.runtime.progress import Now

V = TypeVar("V")


class Part(nn.Module):
    """One technique. `roles` gives each of its own parameters a role, by which rules choose optimizer and codec."""

    roles: ClassVar[dict[str, str]] = {}
    identity_at_init: ClassVar[bool] = False  # a claim that the contract suite checks
    training_only: ClassVar[bool] = False  # the identity when a model is scored

    def __init__(self, context: Place | None = None, /) -> None:
        super().__init__()


class Bus:
    """What flows past the blocks in one forward: token ids, the stream's first state, values made once and shared.

    This one sees a whole sequence at once (`whole`). `score.stream` has one with a memory, by which the same model reads a text piece by piece.
    """

    whole: ClassVar[bool] = True

    def __init__(self, ids: Tensor, bos: int = 1) -> None:
        self.ids, self.bos = ids, bos
        self.x0: Tensor | None = None
        self.shared: dict[str, Tensor] = {}  # what one part leaves for others, by name
        self.visit = 0  # how many blocks have run: a looped block is visited more than once
        self._memo: dict[Any, Any] = {}

    def memo(self, key: Any, make: Callable[[], V]) -> V:
        """A value that many layers need (a rotary table, a mask), made once in a forward."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(V, self._memo[key])

    @property
    def positions(self) -> Tensor:
        """Positions of the tokens at hand in their text, (T,), or (B, T) where each row has its own."""
        return self.memo("positions", lambda: torch.arange(self.ids.shape[1], device=self.ids.device))

    @property
    def key_positions(self) -> Tensor:
        """Positions of all that can be attended to, consecutive, (S,) or (B, S): here the same."""
        return self.positions

    @property
    def oldest(self) -> Tensor | int:
        """Position of the first key that counts, one number or (B, 1): here the row's start."""
        return 0

    @property
    def lags(self) -> Tensor:
        """Query minus key position, (T, S), or (B, 1, T, S) where each row has its own."""
        return self.memo("lags", lambda: over_heads(self.positions[..., :, None] - self.key_positions[..., None, :]))

    def own(self, of_keys: Tensor) -> Tensor:
        """Out of something for each key, (B, S), what the tokens at hand have, (B, T): here the same."""
        return of_keys

    def angles(self, frequencies: Tensor) -> Tensor:
        """Positions times frequencies (F,), (T, F) or (B, T, F): in float32, enough for a sequence seen at once."""
        return self.positions.float()[..., None] * frequencies

    @property
    def documents(self) -> Tensor:
        """Number of the document that each token belongs to, (B, T)."""
        return self.memo("documents", lambda: (self.ids == self.bos).cumsum(1))

    @property
    def key_documents(self) -> Tensor:
        return self.documents

    @property
    def starts(self) -> Tensor:
        """True where a document starts, (B, T)."""
        return self.memo("starts", lambda: self.ids == self.bos)

    def earlier_ids(self, n: int) -> Tensor:
        """The ids n positions back, (B, T); -1 where there is none."""
        return F.pad(self.ids, (n, 0), value=-1)[:, : self.ids.shape[1]]

    def previous(self, part: nn.Module, x: Tensor) -> Tensor:
        """x (B, T, …) of the position before, zeros before the first. A part asks once a visit."""
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)

    def running_sum(self, part: nn.Module, x: Tensor) -> Tensor:
        """The sum of x (B, T, …) over the positions up to each. A part asks once a visit."""
        return x.cumsum(1)

    def recall(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past, then these; here there is no past beyond the sequence itself."""
        return k, v

    def masks(self, parts: Sequence[Callable[[Bus], Tensor]]) -> tuple[Tensor | None, bool]:
        """(mask, causal) as `scaled_dot_product_attention` takes them: a boolean (…, T, S), True where a key is seen."""
        if not parts:
            return None, True
        return self.memo(("mask", tuple(map(id, parts))), lambda: self._mask(parts)), False

    def _mask(self, parts: Sequence[Callable[[Bus], Tensor]]) -> Tensor:
        mask = over_heads(self.positions[..., :, None] >= self.key_positions[..., None, :])
        for p in parts:
            mask = mask & p(self)
        return mask


def over_heads(pairs: Tensor) -> Tensor:
    """(T, S) as it is, (B, T, S) as (B, 1, T, S)."""
    return pairs if pairs.ndim == 2 else pairs[:, None]


def rms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, without a gain, in x's type.

    eps is the machine epsilon of float32 (also for bfloat16, which is computed in float32), or of float64. Since torch 2.13
    autocast on CUDA has `rms_norm` return float32, hence the cast.
    """
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is that: for what bfloat16 is too coarse for."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_channel(number: Tensor, x: Tensor) -> Tensor:
    """A learned number, () or (1,), as a vector over the last axis of x, in x's type.

    Its gradient is then summed over positions channel by channel; that of a lone number a compiler sums over all
    positions and heads in one program.
    """
    return number.to(x.dtype).expand(x.shape[-1])


class Clocked(Part):
    """A part that changes while training goes on. As built it is as at the end: that is what is scored."""

    @property
    def moments(self) -> tuple[float, ...]:
        """The fractions of the run at which its graph becomes another. Each is compiled ahead and probed when it comes."""
        return ()

    def at(self, now: Now) -> None:
        """Told the time before each training step."""
        raise NotImplementedError


@register
class Only:
    """A part in some places alone: `layers` as in `0-5`, `last 4`, `first 3`, `1,3,5` or `*`; `on` names matrices, `q,k`."""

    transparent = "use"

    def __init__(self, *, layers: str = "*", on: str = "", use: Spec[Any]) -> None:
        self.layers, self.on, self.use = layers, on, use

    def holds(self, at: Place) -> bool:
        named = not self.on or at.name in [name.strip() for name in self.on.split(",")]
        return named and (self.layers == "*" or at.layer in layer_set(self.layers, at.layers))


def only(layers: str, part: Spec[V], *, on: str = "") -> Spec[V]:
    from bitgolf.config.spec import part as node

    return cast(Spec[V], node(Only, layers=layers, on=on, use=part))


def layer_set(text: str, layers: int) -> set[int]:
    """The layers that a text names, of 0 … layers-1."""
    chosen: set[int] = set()
    for piece in text.split(","):
        word, _, count = piece.strip().partition(" ")
        try:
            if word in ("first", "last"):
                chosen |= set(range(int(count)) if word == "first" else range(layers - int(count), layers))
            else:
                low, _, high = word.partition("-")
                chosen |= set(range(int(low), int(high or low) + 1))
        except ValueError:
            raise RecipeError(f"{text!r} names no layers", mend="write 0-5, 1,3,5, first 2 or last 4") from None
    if not chosen or min(chosen) < 0 or max(chosen) >= layers:
        raise RecipeError(f"{text!r} does not fit {layers} layers")
    return chosen


def chain(specs: Sequence[Spec[Any]], at: Place) -> nn.ModuleList:
    """Build the parts of a chain that belong on this layer."""
    chosen = []
    for spec in specs:
        if spec.cls is Only:
            choice = cast(Only, spec())
            if not choice.holds(at):
                continue
            spec = choice.use
        chosen.append(spec(at))
    return nn.ModuleList(chosen)


def roles(model: nn.Module) -> dict[str, str]:
    """Path -> role of every parameter. A parameter without a role is an error of the part that owns it."""
    found: dict[str, str] = {}
    seen: set[nn.Parameter] = set()  # a matrix that several blocks share is known by its first path
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if p in seen:
                continue
            seen.add(p)
            if name not in getattr(module, "roles", {}):
                raise RecipeError(f"{part_name(type(module))} declares no role for {name!r}", place=path)
            found[f"{path}.{name}" if path else name] = cast(Part, module).roles[name]
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model these values by path, also one built without any; what blocks share stays shared.

    The paths are those of `roles`: a parameter that stands in several places goes by its first one. (`load_state_dict`
    would ask for all of them, and part what was shared.) Raises `DamagedError` where paths or shapes are others.
    """
    own = dict(model.named_parameters())
    wrong = sorted(own.keys() ^ weights.keys()) + [k for k in own.keys() & weights if own[k].shape != weights[k].shape]
    if wrong:
        raise DamagedError(f"the weights are not this model's ({', '.join(wrong)[:200]})", place="weights")
    new = {p: nn.Parameter(weights[path], p.requires_grad) for path, p in own.items()}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, new[p])


@contextmanager
def taking_gradients(params: Iterable[Tensor], wanted: bool) -> Iterator[None]:
    """For a while these parameters take gradients, or graphs know them as constants; then all are as they were."""
    changed = [p for p in params if p.requires_grad != wanted]
    try:
        for p in changed:
            p.requires_grad_(wanted)
        yield
    finally:
        for p in changed:
            p.requires_grad_(not wanted)
