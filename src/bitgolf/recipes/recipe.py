"""The class `Recipe`: all settings of a run in one value, with a JSON form and a hash."""

from __future__ import annotations

from typing import Any

from bitgolf.average.average import Average
from bitgolf.config.ranges import InnerFraction
from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec
from bitgolf.model.lm import LM
from bitgolf.pack.settings import Pack
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.codecs.codec import Codec
from bitgolf.quantize.rounded_phase import RoundedPhase
from bitgolf.quantize.tuning import FloatTuning
from bitgolf.score.coding.roundtrip import CompressionRoundTrip
from bitgolf.score.methods import ScoringMethod
from bitgolf.text.documents import TextSource
from bitgolf.tokens.trainers import TokenizerTrainer
from bitgolf.training.settings import Train


@register
class Recipe:
    """All settings of a run.

    text: where the documents come from; held_out: share of them kept for validation; tokens: how the tokenizer is
    trained. model, train, average, calibrate, quantize, pack, score: settings of the stages. rounded_phase: the end of
    training, on weights as they will be stored. tune: tuning of the
    parameters that stay floats, after the others are rounded. proof: a compression round
    trip after scoring. published: results that the authors of the system reported.
    """

    def __init__(
        self,
        *,
        name: str,
        text: Spec[TextSource],
        tokens: Spec[TokenizerTrainer],
        model: Spec[LM],
        train: Spec[Train],
        rounded_phase: Spec[RoundedPhase] | None = None,
        average: Spec[Average] | None = None,
        calibrate: Spec[Calibrate] | None = None,
        quantize: tuple[Spec[Rule[Codec]], ...],
        tune: Spec[FloatTuning] | None = None,
        pack: Spec[Pack],
        score: tuple[Spec[ScoringMethod], ...],
        proof: Spec[CompressionRoundTrip] | None = None,
        held_out: InnerFraction = 0.05,
        published: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.text, self.tokens, self.held_out = name, text, tokens, held_out
        self.model, self.train, self.average = model, train, average
        self.calibrate, self.quantize, self.pack, self.score = calibrate, quantize, pack, score
        self.rounded_phase, self.tune = rounded_phase, tune
        self.proof, self.published = proof, published
