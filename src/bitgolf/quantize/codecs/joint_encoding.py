"""Encoding of the tensors of several rules, whose codecs may choose among all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import NamedTuple

from torch import Tensor

from bitgolf.quantize.codecs.codec import Codec, RuleEncoding, Shape
from bitgolf.quantize.codecs.session import EncodingSession
from bitgolf.quantize.stats import MatrixStats


class RuleWeights(NamedTuple):
    """The tensors of a rule by path, and the codec that encodes them."""

    codec: Codec
    weights: Mapping[str, Tensor]


class JointCodec(Codec):
    """A codec that adds something to another codec in `top_k` places, chosen from all tensors of one or several rules."""

    top_k: int

    @property
    @abstractmethod
    def inner(self) -> Codec:
        """The codec that is extended."""

    @property
    @abstractmethod
    def joint_choice(self) -> Hashable | None:
        """Codecs with equal keys choose among the tensors of all their rules; None: among those of one rule."""

    @abstractmethod
    def extra_bits(self, shape: Shape) -> float:
        """Estimated bits that one such place adds to the code of a tensor of this shape; 0 if it can have none."""

    @abstractmethod
    def fit_encode_rules(
        self, rules: Sequence[RuleWeights], stats: Mapping[str, MatrixStats], session: EncodingSession
    ) -> RuleEncoding:
        """Encode all tensors of several rules whose codecs have the class and the `joint_choice` of this one."""

    def fit_encode(
        self, weights: Mapping[str, Tensor], stats: Mapping[str, MatrixStats], session: EncodingSession | None = None
    ) -> RuleEncoding:
        return self.fit_encode_rules([RuleWeights(self, weights)], stats, session or EncodingSession())


def forecast_extra_bytes(codecs: Mapping[str, Codec], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Name of a joint codec -> estimated bytes that its chosen places add, if they are in the largest tensors."""
    members: dict[tuple[str, Hashable], list[tuple[JointCodec, Shape]]] = {}
    for path, outer in codecs.items():
        codec = outer
        while isinstance(codec, JointCodec):
            key = id(codec) if codec.joint_choice is None else codec.joint_choice
            members.setdefault((type(codec).__name__, key), []).append((codec, shapes[path]))
            codec = codec.inner
    found = Counter[str]()
    for (name, _), choices in members.items():
        bits = nlargest(choices[0][0].top_k, (codec.extra_bits(shape) for codec, shape in choices))
        found[name] += round(sum(bits) / 8)
    return dict(found)


def encode_rules(
    rules: Sequence[RuleWeights], stats: Mapping[str, MatrixStats], session: EncodingSession
) -> Iterator[RuleEncoding]:
    """The encodings of several rules, in order. Rules that choose jointly have one encoding, in place of the first."""
    groups: dict[Hashable, list[RuleWeights]] = {}
    for i, rule in enumerate(rules):
        key = rule.codec.joint_choice if isinstance(rule.codec, JointCodec) else None
        groups.setdefault(i if key is None else key, []).append(rule)
    for group in groups.values():
        codec, weights = group[0]
        if isinstance(codec, JointCodec):
            yield codec.fit_encode_rules(group, stats, session)
        else:
            yield codec.fit_encode(weights, stats, session)
