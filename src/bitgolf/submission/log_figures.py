"""The figures in a training log of anybody: scores by stage, sizes, times, seed, data. Labels vary; values are found.

A log is read line by line. Lines that are the script's own source, which many logs begin with, hold no figures.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Stage = Literal["running", "training", "averaged", "quantized", "window", "adapted", "other"]
"""running: partial sums while a score is computed. training: validation during training. averaged: the weights before
quantization. quantized: the packed model. window: it with overlapping windows. adapted: it with adaptation."""

LONGEST_LINE = 500
"""Characters of a line that are considered."""
_SCORE = re.compile(
    r"(?P<key>[\w./-]*bpb[\w./-]*|bits[ _]per[ _]byte)\s*[:=≈~]?\s*(?P<value>\d{1,2}\.\d{2,})\b", re.IGNORECASE
)
_NATS = re.compile(r"\w*(?:loss|nats?)\w*\s*[:=]?\s*(\d{1,2}\.\d{2,})\b", re.IGNORECASE)
_DURATION = re.compile(
    r"\b(?:\w*eval_time|elapsed|time|took|t)\s*[:=]?\s*(\d[\d,]*(?:\.\d+)?)\s*(ms|s|m|min)\b", re.IGNORECASE
)
_STEP = re.compile(r"\bstep[:\s=]*(\d+)(?:/\d+)?\b|^(\d+)/\d+ (?:train|val)", re.IGNORECASE)
_TRAIN_TIME = re.compile(r"\b(?:train|training)_time\s*[:=]\s*(\d[\d,]*(?:\.\d+)?)\s*(ms|s|m|min)\b", re.IGNORECASE)
_STEP_TIME = re.compile(r"\bstep_avg\s*[:=]\s*(\d+(?:\.\d+)?)\s*ms\b", re.IGNORECASE)
_SIZE = re.compile(
    r"^(?P<label>[^:=]{0,120}?(?:size|model|artifact|submission|total)[^:=]{0,80}?)\s*[:=]\s*(?P<value>\d[\d,_]{3,})\s*(?:bytes|B)\b",
    re.IGNORECASE,
)
_TOTAL_TIME = re.compile(r"\btotal_eval_time\s*[:=]\s*(\d+(?:\.\d+)?)\s*s\b", re.IGNORECASE)
_HESSIANS = re.compile(r"\bcollected \d+ hessians in (\d+(?:\.\d+)?)\s*s\b", re.IGNORECASE)
_WHOLE = {
    "seed": re.compile(r"^\s*(?:random_)?seed\s*[:=]\s*(\d+)\b", re.IGNORECASE),
    "validation_tokens": re.compile(
        r"\bval_tokens\s*[:=]\s*(\d+)\s*$|\bval_loader:\S+ .*\btokens:(\d+)", re.IGNORECASE
    ),
    "train_shards": re.compile(r"\btrain_shards\s*[:=]\s*(\d+)\b", re.IGNORECASE),
    "world_size": re.compile(r"^\s*world_size\s*[:=]\s*(\d+)\b", re.IGNORECASE),
    "documents": re.compile(r"\btotal_docs\s*[:=]\s*(\d+)\b", re.IGNORECASE),
    "vocabulary": re.compile(r"^\s*vocab_size\s*[:=]\s*(\d+)\b", re.IGNORECASE),
}
_DATASET = re.compile(r"(?:val_loader|val_files|datasets_dir).*/datasets/([\w.-]+)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}
_CODE = re.compile(r"[{}]|^\s*(?:#|def |class |return|import |from |print\(|log0?\(|if |for |f[\"'])")
_PREFIX = re.compile(r"^(?:\[[^\]]*\]\s*|\d{4}-\d\d-\d\d[T ][\d:.,]+Z?\s*|\d\d:\d\d:\d\d\s*)+")
_KEYWORDS = re.compile(
    r"bpb|bits|bytes|time|seed|tokens|shards|world_size|total_docs|val_files|datasets_dir|vocab_size|hessians|\bB\b",
    re.IGNORECASE,
)
_STAGES: tuple[tuple[Stage, str], ...] = (
    ("running", r"running|run_bpb|chunk|\bdocs? |batch|\[\s*\d+|progress|\bb\d+|%|epoch|search|sweep|candidate"),
    ("averaged", r"pre.?quant|post.?ema|\bema\b|\bswa\b|diagnostic post|raw"),
    ("adapted", r"ttt|adapt|lora|slot|ngram|n-gram|cache|mix|ppm|tilt"),
    ("window", r"sliding|stride|window|_sw\b|_s64"),
    ("quantized", r"quant|int\d|roundtrip|zlib|zstd|ternary|binary|brotli|lzma|final"),
    ("training", r"step|^\d+/\d+|^val|train"),
)


class LoggedScore(NamedTuple):
    """A score in a log. label: the words before it, without figures. bpb; nats per token, seconds: None if not said.

    decimals: decimal places of `bpb`. line: from 1.
    """

    label: str
    stage: Stage
    bpb: float
    decimals: int
    nats: float | None
    seconds: float | None
    line: int


class LoggedSize(NamedTuple):
    """A size in bytes in a log, with its label and line."""

    label: str
    size: int
    line: int


class LoggedTime(NamedTuple):
    """A duration in seconds in a log, with its line."""

    seconds: float
    line: int


class LogFigures:
    """What a log says. name: of the file. Attributes of a figure that the log does not have are None or empty.

    training: the largest training time. total_evaluation: of all scoring. calibration: of collecting Hessians.
    dataset: the folder of the validation shards, "" if not said. whole: seed, validation_tokens, train_shards, world_size, documents, vocabulary: the first value of each, with its
    line.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.scores: list[LoggedScore] = []
        self.sizes: list[LoggedSize] = []
        self.training: LoggedTime | None = None
        self.total_evaluation: LoggedTime | None = None
        self.calibration: LoggedTime | None = None
        self.step_seconds: float | None = None
        self.steps = 0
        self.whole: dict[str, tuple[int, int]] = {}
        self.dataset = ""
        for number, line in enumerate(text.splitlines(), 1):
            if _KEYWORDS.search(line, 0, LONGEST_LINE) and not _CODE.search(line, 0, LONGEST_LINE):
                self._read(line[:LONGEST_LINE], number)

    @property
    def seed(self) -> int | None:
        """The seed that the log states, or None."""
        return self.whole["seed"][0] if "seed" in self.whole else None

    @property
    def final_scores(self) -> list[LoggedScore]:
        """The scores that are no partial sums."""
        return [score for score in self.scores if score.stage != "running"]

    @property
    def is_run(self) -> bool:
        """Whether the file is the log of a run: it has scores of whole evaluations."""
        return bool(self.final_scores)

    def _read(self, line: str, number: int) -> None:
        self._read_scores(line, number)
        if match := _SIZE.search(line):
            self.sizes.append(
                LoggedSize(match["label"].strip().lower(), int(re.sub("[,_]", "", match["value"])), number)
            )
        if (match := _TRAIN_TIME.search(line)) and (step := _STEP.search(_PREFIX.sub("", line))):
            seconds = _seconds(match)
            self.steps = max(self.steps, int(step[1] or step[2]))
            if self.training is None or seconds >= self.training.seconds:
                self.training = LoggedTime(seconds, number)
        if match := _STEP_TIME.search(line):
            self.step_seconds = float(match[1]) / 1000
        if match := _TOTAL_TIME.search(line):
            self.total_evaluation = LoggedTime(float(match[1]), number)
        if match := _HESSIANS.search(line):
            self.calibration = LoggedTime(float(match[1]), number)
        if not self.dataset and (match := _DATASET.search(line)):
            self.dataset = match[1]
        for name, pattern in _WHOLE.items():
            if name not in self.whole and (match := pattern.search(line)):
                self.whole[name] = (int(next(filter(None, match.groups()))), number)

    def _read_scores(self, line: str, number: int) -> None:
        found = list(_SCORE.finditer(line))
        if not found:
            return
        duration, nats = _DURATION.search(line), _NATS.search(line)
        for match in found:
            label = _PREFIX.sub("", line[: match.end("key")])
            stage = _stage(label, _PREFIX.sub("", line))
            self.scores.append(
                LoggedScore(
                    label=re.sub(r"\d+(?:\.\d+)?", "#", label).strip().lower(),
                    stage=stage,
                    bpb=float(match["value"]),
                    decimals=len(match["value"].split(".")[1]),
                    nats=float(nats[1]) if nats and len(found) == 1 else None,
                    seconds=_seconds(duration) if duration and len(found) == 1 else None,
                    line=number,
                )
            )


def _stage(label: str, line: str) -> Stage:
    """Classify a score by the words before it; partial sums by the whole line."""
    for stage, words in _STAGES:
        if re.search(words, line if stage == "running" else label, re.IGNORECASE):
            return stage
    return "other"


def _seconds(match: re.Match[str]) -> float:
    return float(match[1].replace(",", "")) * _SECONDS[match[2].lower()]
