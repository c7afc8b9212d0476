"""What the author of a record folder claims in submission.json. Hundreds of names are in use; the common ones are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

BPB_KEYS = ("val_bpb", "mean_val_bpb", "val_bpb_mean", "bpb", "score", "final_val_bpb", "val_bpb_3seed_mean")
TOTAL_KEYS = (
    *("bytes_total", "artifact_bytes_max", "artifact_bytes", "artifact_size_bytes", "total_bytes"),
    *("submission_bytes", "total_submission_bytes", "artifact_bytes_mean"),
)
CODE_KEYS = ("bytes_code", "code_bytes", "code_size_bytes", "bytes_code_counted")
SEED_KEYS = ("seed_results", "seeds", "per_seed", "results", "runs")


class Claim(NamedTuple):
    """A claimed number. key: its path in the JSON. value; decimals: as they were written, 0 for a whole number."""

    key: str
    value: float
    decimals: int


class Claims:
    """The claims of a submission.json. text: the file. error: why it is no JSON object, "" if it is one."""

    def __init__(self, text: str) -> None:
        self.text, self.error = text, ""
        self.document: Mapping[str, Any] = {}
        try:
            # Numbers stay texts, so that their decimal places are known.
            parsed = json.loads(text, parse_float=_Written, parse_int=_Written)
            if isinstance(parsed, dict):
                self.document = parsed
            else:
                self.error = f"it is a {type(parsed).__name__}, not an object"
        except (ValueError, RecursionError) as error:
            self.error = str(error)

    def line_of(self, key: str) -> int:
        """Return the line of the first mention of a key's last name, 1 if there is none."""
        name = f'"{key.split("/")[-1]}"'
        position = self.text.find(name)
        return 1 + self.text.count("\n", 0, max(position, 0))

    @property
    def bpb(self) -> Claim | None:
        """The claimed score in bits per byte."""
        return self._first(BPB_KEYS)

    @property
    def total_bytes(self) -> Claim | None:
        """The claimed size of code and model."""
        return self._first(TOTAL_KEYS)

    @property
    def code_bytes(self) -> Claim | None:
        """The claimed size of the code."""
        return self._first(CODE_KEYS)

    @property
    def by_seed(self) -> dict[int, Mapping[str, Any]]:
        """The results by seed, where they are stated as an object or a list of objects."""
        for key in SEED_KEYS:
            found = dict(_by_seed(self.document.get(key)))
            if found:
                return found
        return {}

    @property
    def bpb_by_seed(self) -> dict[int, Claim]:
        """The claimed score of each seed that has one."""
        found = {seed: number("val_bpb", r.get("val_bpb", r.get("bpb"))) for seed, r in self.by_seed.items()}
        return {seed: claim for seed, claim in found.items() if claim}

    @property
    def seeds(self) -> list[int]:
        """The seeds that are named."""
        if self.by_seed:
            return list(self.by_seed)
        listed = self.document.get("seeds", self.document.get("seed"))
        values = listed if isinstance(listed, list) else [listed]
        return [seed for value in values if (seed := _whole(value)) is not None]

    def _first(self, keys: tuple[str, ...]) -> Claim | None:
        return next((claim for key in keys if (claim := number(key, self.document.get(key)))), None)


class _Written(str):
    """A number of a JSON file as it is written."""


def number(key: str, value: Any) -> Claim | None:
    """Return a JSON value as a claim, None if it is not a finite number (or a text that is one)."""
    if not isinstance(value, str):
        return None
    written = value.replace(",", "").replace("_", "").strip()
    try:
        parsed = float(written)
    except ValueError:
        return None
    if not math.isfinite(parsed):
        return None
    fraction = written.lower().partition("e")[0].partition(".")[2]
    return Claim(key, parsed, len(fraction))


def _whole(value: Any) -> int | None:
    claim = number("", value)
    return int(claim.value) if claim and claim.value == int(claim.value) else None


def _by_seed(results: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield seed and results of {"42": {…}}, {"seed42": {…}} and [{"seed": 42, …}]."""
    if isinstance(results, dict):
        for name, result in results.items():
            digits = "".join(c for c in name if c.isdigit())
            if digits and isinstance(result, dict):
                yield int(digits), result
    elif isinstance(results, list):
        for result in results:
            if isinstance(result, dict) and (seed := _whole(result.get("seed"))) is not None:
                yield seed, result
