"""Sweeps at toy size over the text of the finished run: `helpers.damage`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from bitgolf.config.spec import Spec, part
from bitgolf.pipeline.execute import ExecutionOptions
from bitgolf.pipeline.given_inputs import GivenInputs
from bitgolf.report.events import read_events
from bitgolf.sweeps.driver import SweepInputs, run_sweep
from bitgolf.sweeps.factors import Factor, FactorLevel
from bitgolf.sweeps.summary import SweepSummary
from bitgolf.sweeps.sweep import Sweep
from helpers import damage

BITS = "quantize.2.use.bits"
OPTIMIZER = part(FactorLevel, name="strong decay", edits=("Muon.weight_decay=0.2", "Muon.lr=0.01"))
FEW_BITS = part(FactorLevel, name="3 bits", edits=(f"{BITS}=3",))


def toy_sweep(*levels: Spec[FactorLevel], seeds: tuple[int, ...] = (0, 1, 2), **settings: Any) -> Spec[Sweep]:
    """A sweep of the toy recipe, eight steps, over levels of one factor; by default, one that trains and one that does not."""
    factors = (part(Factor, name="variant", levels=levels or (OPTIMIZER, FEW_BITS)),)
    recipe = damage.toy_recipe_of_text()
    return part(Sweep, **{"name": "toy", "recipe": recipe, "factors": factors, "seeds": seeds, **settings})


def toy_inputs(*reuse: Path) -> SweepInputs:
    """The toy text. reuse: folders of other runs."""
    text = damage.toy_source()[2]
    return SweepInputs(GivenInputs([Path(text)]), ExecutionOptions(reuse=reuse))


def run_toy_sweep(folder: Path, sweep: Spec[Sweep] | None = None, *reuse: Path) -> SweepSummary:
    """Run a sweep in this process."""
    return run_sweep(sweep or toy_sweep(), toy_inputs(*reuse), folder)


def executed_stages(folder: Path, runs: str = "*") -> Counter[str]:
    """Stage -> how often the runs of a sweep executed it to its end, by the events of their logs."""
    logs = folder.glob(f"{runs}/log.jsonl")
    return Counter(e["stage"] for log in logs for e in read_events(log).events if e["event"] == "stage_done")


def comparable(document: Any) -> Any:
    """The JSON form of a result without the names of folders and without times."""
    hidden = {"run", "folder", "training_seconds", "cost"}
    if isinstance(document, dict):
        return {key: comparable(value) for key, value in document.items() if key not in hidden}
    return [comparable(item) for item in document] if isinstance(document, list) else document


def plain(summary: SweepSummary) -> dict[str, Any]:
    """The JSON form of a summary."""
    import msgspec

    return json.loads(msgspec.json.encode(summary))
