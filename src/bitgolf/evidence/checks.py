"""What can be checked of a bundle offline, and what is only claimed in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec

from bitgolf.artifact.container import read_artifact
from bitgolf.artifact.ledger import ledger
from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.data.manifest import Manifest
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.evidence import collect
from bitgolf.files import digest
from bitgolf.model.lm import LM
from bitgolf.pipeline.code_size import code_size
from bitgolf.pipeline.result import RunResult
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.events import training_steps
from bitgolf.score.coding.proof import Restore
from bitgolf.score.coding.sampling import max_false_fraction, sample_groups
from bitgolf.tokens.loading import tokenizer_from_bytes

CLOCK_SLACK = 0.05
"""Share of the time limit by which the last step may exceed it."""


class CheckedFact(msgspec.Struct, frozen=True):
    """A fact of a bundle. state: checked (repeated here), claimed (only stated), failed (contradicted). evidence: why."""

    name: str
    state: Literal["checked", "claimed", "failed"]
    evidence: str


Fact = Iterator[CheckedFact]


class Bundle:
    """The parts of a bundle, parsed where several checks need them."""

    def __init__(self, parts: Mapping[str, bytes]) -> None:
        self.parts = parts
        self.result = self._decode(collect.RESULT, RunResult)
        self.data = self._decode(collect.DATA, Manifest)

    def _decode(self, name: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(self.parts[name], type=kind)
        except (KeyError, msgspec.MsgspecError, ValueError) as error:
            raise CorruptFileError(f"the part is missing or of another kind ({error})", where=name) from error

    def json(self, name: str) -> Any:
        """Return a part that is JSON."""
        return json.loads(self.parts[name])

    def recipe(self) -> Spec[Recipe]:
        """Return the recipe. Raises the errors of `from_json`."""
        fields = {key: value for key, value in self.json(collect.RECIPE).items() if key not in ("digest", "requires")}
        return from_json(fields)


def check_bundle(parts: Mapping[str, bytes], restore: Restore, *, groups: int, challenge: str) -> list[CheckedFact]:
    """Return every fact of a bundle. groups: of the proof to restore, 0 for all. challenge: which ones are drawn."""
    bundle = Bundle(parts)
    checks: list[Callable[[], Fact]] = [
        lambda: _recipe(bundle),
        lambda: _artifact(bundle),
        lambda: _code(bundle),
        lambda: _scores(bundle),
        lambda: _clock(bundle),
        lambda: _switches(bundle),
        lambda: _data(bundle),
        lambda: _log(bundle),
        lambda: _proof(bundle, restore, groups, challenge),
        lambda: _record(bundle),
    ]
    return [fact for check in checks for fact in check()]


def _recipe(bundle: Bundle) -> Fact:
    try:
        found = recipe_hash(bundle.recipe())
    except BitgolfError as error:
        yield CheckedFact("recipe", "claimed", f"it cannot be read here: {error.message}")
        return
    same = found == bundle.result.hash
    evidence = f"its hash is {found}" + ("" if same else f", and the result states {bundle.result.hash}")
    yield CheckedFact("recipe", "checked" if same else "failed", evidence)


def _artifact(bundle: Bundle) -> Fact:
    data, sizes = bundle.parts[collect.ARTIFACT], bundle.result.bytes
    try:
        artifact = read_artifact(data)
    except BitgolfError as error:
        yield CheckedFact("artifact", "failed", error.message)
        return
    total = sum(entry.bytes for entry in ledger(artifact))
    tokenizer = sum(len(s.data) for name, s in artifact.sections.items() if name == "tokenizer")
    right = total == len(data) == sizes.self_contained and total - tokenizer == sizes.model
    stated = f"{sizes.model:,} bytes without the tokenizer, {sizes.self_contained:,} with it"
    evidence = f"every byte is in its ledger: {stated}" if right else f"it has {len(data):,} bytes; stated are {stated}"
    yield CheckedFact("artifact", "checked" if right else "failed", evidence)
    counted = total - tokenizer + (sizes.code or 0 if sizes.code_counts else 0)
    over = sizes.total > sizes.cap > 0 or sizes.total != counted
    cap = f"{sizes.total:,} of {sizes.cap:,} bytes ({sizes.counted})"
    yield CheckedFact("byte cap", "failed" if over else "checked", cap)


def _code(bundle: Bundle) -> Fact:
    """The size of the code is that of the script which this version of the package makes of the recipe."""
    stated, tokenizer = bundle.result.bytes, bundle.parts[collect.TOKENIZER]
    if stated.code is None:
        yield CheckedFact("code", "claimed", f"no size is stated{': ' * bool(stated.code_note)}{stated.code_note}")
        return
    try:
        found = code_size(bundle.recipe(), tokenizer_from_bytes(tokenizer).kind)
    except BitgolfError as error:
        yield CheckedFact("code", "claimed", f"{stated.code:,} bytes; the script cannot be made here: {error.message}")
        return
    same = found.bytes == stated.code
    here = "as the script made here" if same else f"the script made here has {found.bytes or 0:,}, of another version"
    yield CheckedFact("code", "checked" if same else "claimed", f"{stated.code:,} bytes, {here}")


def _scores(bundle: Bundle) -> Fact:
    """The scores follow from the bits and bytes that are stated; that these are right is claimed, or proved below."""
    for method in bundle.result.methods:
        bpb = (method.bits + method.order_bits) / method.bytes
        right = math.isclose(bpb, method.bpb, rel_tol=1e-12)
        stated = f"{method.bits:,.1f} bits for {method.bytes:,} bytes are {bpb:.6f} bpb"
        evidence = stated if right else f"{stated}; stated are {method.bpb}"
        yield CheckedFact(f"score {method.method}: arithmetic", "checked" if right else "failed", evidence)
        yield CheckedFact(
            f"score {method.method}", "claimed", "the text is not in the bundle: `bitgolf score` repeats it"
        )


def _clock(bundle: Bundle) -> Fact:
    clock = bundle.result.training_clock
    adds = math.isclose(clock.train + clock.calibrate, clock.total, abs_tol=0.011)
    over = clock.limit > 0 and clock.total > clock.limit * (1 + CLOCK_SLACK)
    evidence = f"training {clock.train:.1f} s and calibration {clock.calibrate:.1f} s, limit {clock.limit:g} s"
    yield CheckedFact("training clock: sum and limit", "failed" if over or not adds else "checked", evidence)
    yield CheckedFact("training clock", "claimed", "the times were measured on the machine of the run")


def _switches(bundle: Bundle) -> Fact:
    rows = [row for row in bundle.result.part_usage if row.part != LM.__name__]  # the whole, which no part calls
    idle = [row.part for row in rows if not (row.tensors or row.parameters or row.calls)]
    evidence = f"without effect: {', '.join(idle)}" if idle else f"{len(rows)} parts touched something"
    yield CheckedFact("what each switch touched", "failed" if idle else "checked", evidence)


def _data(bundle: Bundle) -> Fact:
    found = digest(bundle.parts[collect.TOKENIZER])
    same = found == bundle.data.tokenizer
    yield CheckedFact(
        "tokenizer", "checked" if same else "failed", f"digest {found}, data states {bundle.data.tokenizer}"
    )
    held_out, val = bundle.result.held_out, bundle.data.val
    agree = (held_out.documents, held_out.tokens, held_out.bytes) == (val.documents, val.tokens, val.encoded_bytes)
    counts = f"{val.documents:,} documents, {val.tokens:,} tokens, {val.encoded_bytes:,} bytes"
    yield CheckedFact("counts of the held-out text", "checked" if agree else "failed", counts)
    yield CheckedFact("digests of the shards", "claimed", "`bitgolf data check` of the same shards repeats them")


def _log(bundle: Bundle) -> Fact:
    events = []
    for line in bundle.parts[collect.LOG].splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    steps = training_steps(events)
    last = steps[-1].step if steps else 0
    right = last <= bundle.result.steps
    evidence = f"its last training step is {last:,}, the result states {bundle.result.steps:,} steps"
    yield CheckedFact("log", "checked" if right else "failed", evidence)


def _proof(bundle: Bundle, restore: Restore, groups: int, challenge: str) -> Fact:
    data = bundle.parts.get(collect.COMMITMENT)
    if data is None:
        yield CheckedFact("proof by compression", "claimed", "the bundle has no proof")
        return
    commitment = json.loads(data)
    name = hashlib.sha256(bundle.parts[collect.ARTIFACT]).hexdigest()
    if name != commitment["artifact_sha256"]:
        yield CheckedFact("proof by compression", "failed", "it is of another artifact than that of the bundle")
        return
    listed = commitment["groups"]
    wrong = [g["file"] for g in listed if hashlib.sha256(_coded(bundle, g)).hexdigest() != g["sha256"]]
    whole = math.isclose(sum(g["bits"] for g in listed), commitment["bits"], rel_tol=1e-9)
    if wrong or not whole or sum(g["bytes"] for g in listed) != commitment["bytes"]:
        yield CheckedFact("proof: commitment", "failed", f"not as committed: {', '.join(wrong) or 'the sums'}")
        return
    coded = 8 * sum(len(_coded(bundle, g)) for g in listed) / commitment["bytes"]
    said = f"{commitment['bits'] / commitment['bytes']:.5f} bpb claimed for {commitment['bytes']:,} bytes"
    yield CheckedFact("proof: commitment", "checked", f"{said}, {coded:.5f} bpb in the files")
    drawn = sample_groups(data, challenge, len(listed), groups)
    yield from _restored(bundle, restore, [(number, listed[number]) for number in drawn], len(listed))


def _coded(bundle: Bundle, group: Mapping[str, Any]) -> bytes:
    return bundle.parts.get(collect.PROOF + group["file"], b"")


def _restored(bundle: Bundle, restore: Restore, drawn: list[tuple[int, Mapping[str, Any]]], count: int) -> Fact:
    """Restore the drawn groups from the artifact, and compare their text with the digest in the commitment."""
    with _unpacked(bundle) as folder:
        for number, group in drawn:
            target = folder / "restored"
            try:
                restore(folder / collect.ARTIFACT, folder / group["file"], target)
            except BitgolfError as error:
                yield CheckedFact("proof: restored groups", "failed", f"group {number}: {error.message}")
                return
            if hashlib.sha256(target.read_bytes()).hexdigest() != group["text_sha256"]:
                yield CheckedFact(
                    "proof: restored groups", "failed", f"group {number} is not the text that was committed"
                )
                return
    share = max_false_fraction(len(drawn), count)
    evidence = f"{len(drawn)} of {count} groups; with 95 % confidence at most {share:.0%} of all are not restored"
    yield CheckedFact("proof: restored groups", "checked", evidence)


@contextmanager
def _unpacked(bundle: Bundle) -> Iterator[Path]:
    """Yield a temporary folder with the artifact and the files of the proof."""
    with TemporaryDirectory(prefix="bitgolf-verify-") as name:
        folder = Path(name)
        (folder / collect.ARTIFACT).write_bytes(bundle.parts[collect.ARTIFACT])
        for part, data in bundle.parts.items():
            if part.startswith(collect.PROOF):
                (folder / Path(part).name).write_bytes(data)
        yield folder


def _record(bundle: Bundle) -> Fact:
    """The statistics are not repeated from other bundles: only their own sums are checked."""
    if collect.RECORD not in bundle.parts:
        return
    verdict = bundle.json(collect.RECORD)
    test = verdict["test"]
    statistic = (test["improvement"] - test["margin"]) / test["error"]
    right = math.isclose(statistic, test["statistic"], rel_tol=1e-9)
    evidence = f"improvement {test['improvement']:+.5f} bpb, p = {verdict['p']:.2g} after {verdict['tries']} tries"
    yield CheckedFact("statistics: arithmetic", "checked" if right else "failed", evidence)
    yield CheckedFact("statistics", "claimed", "the other runs are not in the bundle")
