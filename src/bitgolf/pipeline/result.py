"""The result of a run. Its fields are the keys of `run --json` and of `score.json` in the run's folder."""

from __future__ import annotations

import msgspec

from bitgolf.pipeline.calibration import CalibrationSummary, TrainingClock
from bitgolf.pipeline.compression import ArtifactSizes
from bitgolf.pipeline.training_result import PartUsageRow
from bitgolf.report.events import ValidationRow
from bitgolf.score.result import MethodResult, RoundTripResult, ScoredText


class HeldOutText(msgspec.Struct, frozen=True, kw_only=True):
    """The text that was scored.

    tokens: of the validation shards. bytes: length of the text that they decode to, by which scores are divided.
    sidecar_bytes: total of the byte sidecar of published shards, which no score uses; None without one.
    """

    documents: int
    tokens: int
    bytes: int
    sidecar_bytes: int | None


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a run.

    run: its folder. recipe, hash: name and hash of the recipe.
    device: description of the device. params: number of parameters. tokens, steps: of training.
    seconds: wall time by stage, start-up included. training_clock: seconds that count against the time limit.
    bpb: bits per byte of held-out text: `trained`, `averaged` and `packed` weights, `sliding` and `adapted` scores of
    the packed weights, and further methods by name; None if the recipe has none.
    held_out: the text of the scores. bytes: sizes of the artifact. fits: whether it is within the cap.
    roundtrip: compression and restoring of a held-out document; None if the recipe has no proof.
    methods: scores of the artifact. part_usage: parameters and calls of each part.
    scored: the held-out text that was scored; None without scoring. validation: scores during training, in order; empty
    without `train.validation`. quick: the recipe was made a toy by `--quick`.
    code: names of the user's code files that the artifact needs.
    """

    run: str
    recipe: str
    hash: str
    seed: int
    device: str
    params: int
    tokens: int
    steps: int
    seconds: dict[str, float]
    training_clock: TrainingClock
    calibration: CalibrationSummary
    bpb: dict[str, float | None]
    held_out: HeldOutText
    bytes: ArtifactSizes
    fits: bool
    roundtrip: RoundTripResult | None
    methods: list[MethodResult]
    part_usage: list[PartUsageRow]
    scored: ScoredText | None = None
    validation: list[ValidationRow] = []
    quick: bool = False
    code: list[str] = []

    @property
    def quick_note(self) -> str:
        """A sentence that says that the figures are those of a toy; "" if they are not."""
        toy = "A quick run (--quick): the recipe as a toy. Its figures say nothing about the recipe at its own size."
        return toy if self.quick else ""

    @property
    def sample_note(self) -> str:
        """A sentence that says how much of the held-out text was scored; "" for all of it."""
        text = self.scored
        if not self.methods:
            return "Not scored."
        if text is None or text.share == 1:
            return ""
        share = f"{text.bytes:,} bytes, {text.share:.2%} of all"
        return f"Scored on a sample of the held-out text: {text.documents:,} documents, {share}."
