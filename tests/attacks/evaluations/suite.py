"""The suite of cheats: each with its honest counterpart, and the rule that must reject it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from attacks.evaluations import contamination, cross_document, denominator, gates, lookahead, normalization, stored
from attacks.evaluations import more_honest as more
from attacks.evaluations import tokenizers as tok
from attacks.evaluations.corpora import ToyCorpus, letters_corpus, typographic_corpus, words_corpus
from attacks.evaluations.honest import AdaptiveBigram, BigramEvaluation, IsolatedBigram, SilentBigram
from attacks.evaluations.partly import MakeEvaluation, depth, documents, every, only, text
from bitgolf.score.audit.audit import DEFAULT_BUDGET, AuditReport, audit_evaluation
from bitgolf.score.audit.budget import AuditBudget

ALL = 1.0


class Cheat(NamedTuple):
    """A cheat, its honest counterpart, and the rule that must be the only one that its audit finds.

    share: of the targets at which a question shows it; 0 if the check asks no questions, since it covers everything.
    """

    name: str
    description: str
    cheat: MakeEvaluation
    honest: MakeEvaluation
    rule: str
    share: float = 0.0
    corpus: Callable[[], ToyCorpus] = letters_corpus


def in_words(*cheat: Any) -> Cheat:
    """A cheat that is tested on English words."""
    return Cheat(*cheat, corpus=words_corpus)


def _only(place: Any, cheat: Any, honest: Any = SilentBigram, silent: bool = True) -> MakeEvaluation:
    return only(place, cheat, honest, silent=silent)


Peek, NoPeek = lookahead.NextTokenMixing, lookahead.PreviousTokenMixing

CHEATS = [
    # probabilities
    Cheat("target in the hash key", "counts with a key of context and target", normalization.TargetInKey, normalization.ContextInKey, "target-in-key", 0.5),
    Cheat("target in the hash key, a fifth", "only in the documents from 40 to 60 %", only(documents(0.4, 0.6), normalization.TargetInKey, normalization.ContextInKey), normalization.ContextInKey, "target-in-key", 0.1),
    Cheat("backoff by the target", "the longest context that has a count for the target", normalization.TargetBackoff, SilentBigram, "sums-to-one", ALL),
    Cheat("backoff by the target, every fourth", "only at every fourth target", _only(every(4), normalization.TargetBackoff), SilentBigram, "sums-to-one", 0.25),
    Cheat("unnormalized blend", "hashed counts, evaluated at the target only, mixed in", normalization.UnnormalizedBlend, SilentBigram, "sums-to-one", ALL),
    Cheat("unnormalized blend, first half", "only in the first half of the text", _only(text(0, 0.5), normalization.UnnormalizedBlend), SilentBigram, "sums-to-one", 0.5),
    Cheat("free targets, first half", "the first half of the text costs nothing", _only(text(0, 0.5), normalization.Free), SilentBigram, "sums-to-one", 0.5),
    Cheat("half price, first 40 %", "the first two fifths of the text cost half", _only(text(0, 0.4), normalization.HalfPrice), SilentBigram, "sums-to-one", 0.4),
    Cheat("half price, depth 30 to 50 %", "a fifth of each document costs half", _only(depth(0.3, 0.5), normalization.HalfPrice), SilentBigram, "sums-to-one", 0.2),
    Cheat("false distributions, a fifth", "other bits than the reported distributions say, in the first 20 %", only(text(0, 0.2), normalization.FalseReport, AdaptiveBigram), AdaptiveBigram, "charge-mismatch", 0.2),
    Cheat("honest when asked", "full price in a run that asks for distributions", normalization.HonestWhenAsked, AdaptiveBigram, "not-deterministic"),
    Cheat("best of several strides", "two passes, the smaller loss of each target", normalization.BestStride, normalization.WindowedCounts, "best-of-passes", ALL),
    Cheat("best of several strides, last 40 %", "only in the last two fifths of the text", _only(text(0.6, 1), normalization.BestStride, normalization.WindowedCounts), normalization.WindowedCounts, "best-of-passes", 0.4),
    # later tokens
    Cheat("two-pass rescoring", "scored again with counts of the whole text", lookahead.TwoPass, AdaptiveBigram, "two-pass", ALL),
    Cheat("two-pass rescoring, first 45 %", "only in the first 45 % of the text", only(text(0, 0.45), lookahead.TwoPass, AdaptiveBigram), AdaptiveBigram, "two-pass", 0.45),
    Cheat("last-epoch scoring", "three epochs on a document, the last one reported", lookahead.LastEpoch, IsolatedBigram, "last-epoch", ALL),
    Cheat("last-epoch scoring, half", "only in the first half of each document", only(depth(0, 0.5), lookahead.LastEpoch, IsolatedBigram), IsolatedBigram, "last-epoch", 0.5),
    Cheat("last-epoch scoring, 40 %", "only in the first two fifths of the documents", only(documents(0, 0.4), lookahead.LastEpoch, IsolatedBigram), IsolatedBigram, "last-epoch", 0.4),
    Cheat("own-window optimization", "a bias fitted to the targets that are scored with it (SLOT)", lookahead.OwnWindowBias, lookahead.PreviousWindowBias, "fitted-to-own-targets", 0.9),
    Cheat("own-window optimization, 16 targets", "the same in windows of 16 targets", lookahead.ShortOwnWindowBias, lookahead.ShortPreviousWindowBias, "fitted-to-own-targets", 0.9),
    Cheat("own-window optimization, 8 targets", "the same in windows of 8 targets", lookahead.ShortestOwnWindowBias, lookahead.ShortestPreviousWindowBias, "fitted-to-own-targets", 0.85),
    Cheat("own-window optimization, a quarter", "only in the last quarter of the text", only(text(0.75, 1), lookahead.ShortOwnWindowBias, lookahead.ShortPreviousWindowBias), lookahead.ShortPreviousWindowBias, "fitted-to-own-targets", 0.22),
    Cheat("lookahead by one token", "a distribution given the token after the target, mixed in", Peek, NoPeek, "lookahead", ALL),
    Cheat("lookahead, 55 % of documents", "only in the first 55 % of each document", only(depth(0, 0.55), Peek, NoPeek), NoPeek, "lookahead", 0.55),
    Cheat("lookahead, first half", "only in the first half of the text", only(text(0, 0.5), Peek, NoPeek), NoPeek, "lookahead", 0.5),
    Cheat("lookahead, one document", "only in one of ten documents", only(documents(0.3, 0.4), Peek, NoPeek), NoPeek, "lookahead", 0.1),
    Cheat("lookahead by two tokens", "a distribution given the second token after the target, mixed in", lookahead.OffByTwo, BigramEvaluation, "lookahead", ALL),
    Cheat("oracle gate by window", "the model that is better in this window of 16 targets", gates.OracleWindowGate, gates.PreviousWindowGate, "fitted-to-own-targets", 0.3),
    Cheat("oracle gate by document", "the better of two weights of counts for each document", gates.OracleDocumentGate, gates.LightCounts, "last-epoch", 0.12),
    Cheat("oracle temperature", "the better of two temperatures for each document", gates.OracleTemperature, gates.OneTemperature, "last-epoch", 0.17),
    # text that is known before
    Cheat("warm-up on validation text", "a warm-up that updates counts on half of the text", contamination.ValidationWarmup, contamination.RandomTokenWarmup, "warmed-up-on-validation"),
    Cheat("warm-up on a tenth of it", "the same on a tenth of the text", contamination.ShortValidationWarmup, contamination.RandomTokenWarmup, "warmed-up-on-validation"),
    Cheat("calibration on validation text", "a model with counts of half of the text", contamination.ValidationCalibration, BigramEvaluation, "calibrated-on-validation"),
    Cheat("calibration on a tenth of it", "a model with counts of a tenth of the text", contamination.ShortValidationCalibration, BigramEvaluation, "calibrated-on-validation"),
    Cheat("stored prefix, 45 %", "the artifact contains the first 45 % of the text", stored.Stored, BigramEvaluation, "stored-text"),
    Cheat("stored prefix, 10 %", "the artifact contains the first tenth of the text", stored.StoredTenth, BigramEvaluation, "stored-text"),
    Cheat("free positions, 10 %", "the first tenth of the positions costs nothing", stored.FreePrefix, BigramEvaluation, "sums-to-one", 0.1),
    Cheat("stored tokens, every sixth", "the artifact contains every sixth token of the text", stored.StoredPositions, BigramEvaluation, "stored-text"),
    Cheat("stored contexts, three documents", "three documents, each token by the six before it", stored.StoredContexts, BigramEvaluation, "stored-text"),
    # documents
    Cheat("context before the document", "counts of the stream before the document", cross_document.ContextBeforeDocument, IsolatedBigram, "document-leak"),
    Cheat("context before, 30 %", "only in the last 30 % of the documents", only(documents(0.7, 1), cross_document.ContextBeforeDocument, IsolatedBigram), IsolatedBigram, "document-leak"),
    Cheat("context before, one document", "only in the last document", only(documents(0.9, 1), cross_document.ContextBeforeDocument, IsolatedBigram), IsolatedBigram, "document-leak"),
    Cheat("counts not reset", "one table of counts for documents that are declared isolated", cross_document.MemoryNotReset, IsolatedBigram, "document-leak"),
    Cheat("counts shared by rows", "one table of counts for documents side by side", cross_document.SharedRows, IsolatedBigram, "batch-leak"),
    Cheat("counts shared by rows, ends", "only in the last tenth of each document", only(depth(0.9, 1), cross_document.SharedRows, IsolatedBigram), IsolatedBigram, "batch-leak"),
    in_words("longest document first", "order by length, without bits for the lengths", cross_document.SortedByLength, cross_document.PreviousDocumentMemory, "document-lengths", ALL),
    in_words("longest first, half", "only the first half of the documents", cross_document.FirstHalfByLength, cross_document.PreviousDocumentMemory, "document-lengths", 0.5),
    # targets
    in_words("dropped tail", "whole windows only, divided by all bytes", denominator.DroppedTail, BigramEvaluation, "dropped-tail"),
    in_words("doubled tail", "the last windows overlap, and their targets count each time", denominator.DoubledTail, AdaptiveBigram, "doubled-tail"),
    in_words("every epoch charged", "two epochs, both charged and both counted", denominator.EveryEpochCharged, AdaptiveBigram, "charged-twice"),
    in_words("partial validation", "only the longest half of the documents", denominator.PartialValidation, BigramEvaluation, "partial-validation"),
    in_words("hard targets skipped", "targets that cost more than six bits are left out", denominator.HardTargetsSkipped, BigramEvaluation, "skipped-targets"),
    in_words("every twentieth skipped", "every twentieth target is left out", denominator.EveryTwentiethSkipped, BigramEvaluation, "skipped-targets"),
    # bytes
    in_words("spaces counted twice", "a byte table that counts a space in its piece and separately", denominator.SpaceCountedTwice, BigramEvaluation, "bytes-space-twice"),
    in_words("spaces counted twice, half", "only in the second half of the text", denominator.SpaceCountedTwiceLate, BigramEvaluation, "bytes-space-twice"),
    in_words("byte fallback counted three times", "a byte table that decodes byte tokens one by one", denominator.ByteFallbackCountedThrice, BigramEvaluation, "bytes-fallback-x3"),
    in_words("byte fallback, a third", "only in every third section of the text", denominator.EveryThirdCountedThrice, BigramEvaluation, "bytes-fallback-x3"),
    in_words("missing space piece", "each space encoded and counted as three bytes", tok.NoSpacePiece, BigramEvaluation, "no-space-piece"),
    in_words("missing space piece, lone spaces", "a SentencePiece model without the piece of a lone space", tok.LoneSpacesAsBytes, BigramEvaluation, "no-space-piece"),
    in_words("more bytes", "one per cent more bytes", denominator.MoreBytes, BigramEvaluation, "bytes-over"),
    in_words("text converted to lower case", "a tokenizer that does not restore capitals", tok.LowercasedText, BigramEvaluation, "lossy-tokenizer"),
    in_words("lower case, some documents", "only documents of an even number of bytes", tok.RarelyLowercased, BigramEvaluation, "lossy-tokenizer"),
    in_words("a tokenizer that remembers", "decodes to the document that it was shown", tok.RememberedText, BigramEvaluation, "lossy-tokenizer"),
    in_words("a tokenizer that remembers, shared", "the same with a memory of the class", tok.MemoryOfTheClass, BigramEvaluation, "lossy-tokenizer"),
    Cheat("normalized text, spaces twice", "a normalizing tokenizer, and spaces counted twice", tok.NFKCAndSpaceTwice, BigramEvaluation, "lossy-tokenizer, bytes-space-twice", corpus=typographic_corpus),
]  # fmt: skip

HONEST: dict[str, tuple[MakeEvaluation, Callable[[], ToyCorpus]]] = {
    **{f"counterpart of {cheat.name}": (cheat.honest, cheat.corpus) for cheat in reversed(CHEATS)},
    **more.HONEST,
}
HONEST = {name: entry for i, (name, entry) in enumerate(HONEST.items()) if entry not in list(HONEST.values())[:i]}


def audit_on(
    corpus: Callable[[], ToyCorpus], kind: MakeEvaluation, budget: AuditBudget = DEFAULT_BUDGET, seed: int = 0
) -> AuditReport:
    """Audit an evaluation on a toy corpus."""
    scored, training, tokenizer = corpus()
    return audit_evaluation(lambda: kind(tokenizer), scored, training, seed=seed, budget=budget)
