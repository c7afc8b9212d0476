"""The pipeline on one page: prepare -> train -> average -> calibrate -> quantize -> pack -> score -> report, from files to files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from bitgolf.artifact.ledger import Entry, choices, ledger, over_cap_advice
from bitgolf.artifact.model import write
from bitgolf.config.spec import part
from bitgolf.data.manifest import load_manifest
from bitgolf.data.prepare import prepare as prepare_data
from bitgolf.errors import BitgolfError, DamagedError, UsageError
from bitgolf.files import file_digest, read_json, value_digest, write_bytes, write_json
from bitgolf.model.build import build_on_meta
from bitgolf.model.lm import LM
from bitgolf.model.parameters import load_weights, roles
from bitgolf.pack.parallel import workers
from bitgolf.pipeline.calibration import measure_reserve
from bitgolf.pipeline.execute import Run
from bitgolf.pipeline.training import train_run
from bitgolf.quantize.calibration.stats_file import load_calibration
from bitgolf.quantize.codecs.session import Session
from bitgolf.quantize.encoding import encode_all, load_codes, save_codes
from bitgolf.quantize.encoding import report as report_codes
from bitgolf.recipes.identity import identity, training_slice
from bitgolf.report.environment import environment
from bitgolf.report.html import page
from bitgolf.runtime.device import choose
from bitgolf.runtime.launch import launch
from bitgolf.score.evaluate import measure
from bitgolf.score.text import validation
from bitgolf.text.documents import Files, split
from bitgolf.tokens.audit import audit
from bitgolf.tokens.loading import load_tokenizer, open_tokenizer
from bitgolf.train import checkpoint
from bitgolf.train.trainer import average_state

AUDITED = 20  # held-out documents on which a tokenizer's byte table is tried


def prepare_inputs(run: Run) -> list[Any]:
    """What decides the shards: the text (by names, sizes and times of its files), the tokenizer, the split."""
    if run.shards:
        return ["shards", str(run.shards.resolve())]
    source = _source(run)
    return [source.to_json(), source().identity(), run.slice("tokens", "held_out")]


def _source(run: Run) -> Any:
    return part(Files, paths=run.text) if run.text else run.recipe["text"]


def prepare(run: Run) -> dict[str, Any]:
    """Text -> tokenizer and shards, validation documents held out by the hash of their content."""
    if run.shards:
        manifest = load_manifest(run.shards)
        return {"data": str(run.shards), "tokens": manifest.train.tokens}
    training, held_out = split(_source(run)().documents(), run.recipe["held_out"])
    if not training or not held_out:
        raise UsageError(
            f"the text has {len(training) + len(held_out)} documents: too few to hold some out", mend="give more files"
        )
    run.journal.say(
        f"{len(training):,} documents to train on, {len(held_out):,} held out ({sum(len(d.data) for d in held_out):,} bytes)"
    )
    proto = run.recipe["tokens"]().train(d.data for d in training)
    tokenizer = open_tokenizer(proto)
    run.journal.say(
        f"tokenizer: vocabulary {tokenizer.vocab:,}, {'lossless' if tokenizer.lossless else 'not lossless'}"
    )
    for finding in audit(tokenizer, (d.data for d in held_out[:AUDITED])):
        if finding.rule != "challenge-table":  # we never count with it
            run.journal.event("warning", message=f"tokenizer: {finding.message}")
    manifest = prepare_data(training, held_out, tokenizer, run.data)
    write_bytes(run.data / "val.raw", b"".join(d.data for d in held_out))
    write_json(run.data / "val.lengths.json", [len(d.data) for d in held_out])
    run.journal.say(
        f"{manifest.train.tokens:,} training tokens, {manifest.train.raw_bytes / manifest.train.tokens:.2f} bytes each"
    )
    return {"data": "data", "tokens": manifest.train.tokens}


def train(run: Run) -> dict[str, Any]:
    """Shards -> checkpoints. One process here, or many under torchrun."""
    if run.devices > 1:
        words = str(run.folder), str(run.data), str(run.seed), str(int(run.resume)), run.device
        launch(run.devices, "bitgolf.pipeline.train_worker", *words, folder=run.folder)
    else:
        train_run(
            run.recipe,
            run.data,
            run.folder,
            seed=run.seed,
            resume=run.resume,
            journal=run.journal,
            wanted=run.device,
            measure=measure_reserve,
        )
    outcome = read_json(run.folder / "train.json")
    clock = outcome.pop("seconds")  # the stage has seconds of its own, start-up included
    return {**outcome, "clock": clock}


def claim_checkpoints(run: Run) -> None:
    """Never mix two trainings: a folder's checkpoints belong to one recipe, one seed, one text. Raises before any harm."""
    folder = run.folder / "checkpoint"
    key = value_digest([training_slice(run.recipe), run.seed, str(load_manifest(run.data).train)])
    mine = folder / "key.json"
    if mine.exists() and not run.fresh_start:
        if read_json(mine) != key:
            raise UsageError(
                "this folder holds the training of another recipe, seed or text",
                place=str(folder),
                mend="choose another --out, or --from train to replace it",
            )
        if not run.resume and checkpoint.load_latest(folder):
            raise UsageError(
                "this folder holds an unfinished training",
                place=str(folder),
                mend="--resume goes on with it, --from train starts again",
            )
    if run.fresh_start and folder.exists():
        shutil.rmtree(folder)
    write_json(mine, key)


def empty_model(run: Run) -> LM:
    """For the tokenizer that the shards were made with; the recipe's own may be another, or smaller."""
    tokenizer = load_tokenizer(run.data / "tokenizer.model")
    return build_on_meta(run.recipe["model"], tokenizer.vocab, tokenizer.bos)


def average(run: Run) -> dict[str, Any]:
    """The last checkpoint -> the weights that ship."""
    found = checkpoint.load_latest(run.folder / "checkpoint")
    if found is None:
        raise BitgolfError("there is no checkpoint", place=str(run.folder), mend="--from train")
    live = {path: found.tensors[f"weights/{path}"] for path in found.meta["paths"]}  # in the order of the average
    means = live
    if run.recipe["average"]:
        state = average_state(found.tensors)
        means = dict(zip(live, run.recipe["average"]().result(state, list(live.values())), strict=True))
    for name, weights in (("trained", live), ("averaged", means)):
        own = {k: v.float().contiguous() for k, v in weights.items() if not k.startswith("objective.")}
        write_bytes(run.folder / f"{name}.safetensors", safetensors_bytes(own))
    return {"step": found.step, "by": run.recipe["average"].name if run.recipe["average"] else "none"}


def quantize_inputs(run: Run) -> list[Any]:
    """The weights, what is known of them, and the rules."""
    files = [run.folder / "averaged.safetensors"]
    if run.recipe["calibrate"]:
        files.append(run.folder / "calibration.safetensors")
    if missing := [file for file in files if not file.exists()]:
        raise DamagedError("the file is missing", place=str(missing[0]), mend="--from average")
    return [*map(file_digest, files), run.slice("quantize")]


def quantize(run: Run) -> dict[str, Any]:
    """Weights -> codes, by rules with exact cover; `codes/report.json` has a row for each tensor."""
    weights = load_file(run.folder / "averaged.safetensors")
    kinds, rules = roles(empty_model(run)), run.recipe["quantize"]
    stats = load_calibration(run.folder / "calibration.safetensors") if run.recipe["calibrate"] else None

    def progress(done: int, of: int) -> None:
        run.journal.progress(f"quantize: {done:,} of {of:,} weights")

    session = Session(device=_encoder(run))
    codes = encode_all(weights, kinds, rules, stats, session, say=run.journal.say, progress=progress)
    save_codes(run.folder / "codes" / "codes.safetensors", codes)
    write_json(
        run.folder / "codes" / "report.json", [row._asdict() for row in report_codes(weights, codes, kinds, rules)]
    )
    return {"tensors": len(codes)}


def _encoder(run: Run) -> torch.device:
    """Where weights are encoded: on the run's device, unless that has no float64 (MPS)."""
    device = choose(wanted=run.device).device
    return torch.device("cpu") if device.type == "mps" else device


def pack(run: Run) -> dict[str, Any]:
    """Codes -> the artifact. Over the cap is a failure, with the ledger's word on what to cut."""
    path = run.folder / "artifact.bg"
    codes = load_codes(run.folder / "codes" / "codes.safetensors")
    run.journal.say(f"coding with {workers()} threads, as many as this process has CPUs")
    artifact = write(path, run.recipe, codes, (run.data / "tokenizer.model").read_bytes())
    for choice in choices(artifact, codes, run.recipe["pack"]().grouped(roles(empty_model(run)))):
        run.journal.say(f"packed {choice}")
    entries = ledger(artifact)
    tokenizer = sum(e.bytes for e in entries if e.name == "tokenizer")
    total = sum(e.bytes for e in entries)
    cap = run.recipe["pack.cap"]
    sizes = {
        "model": total - tokenizer,
        "code": None,
        "tokenizer": tokenizer,
        "total": total - tokenizer,
        "self_contained": total,
        "cap": cap,
    }
    run.journal.say(f"packed: {sizes['total']:,} / {cap:,} bytes (the model alone), {total:,} with the tokenizer")
    if sizes["total"] > cap:
        raise BitgolfError(
            f"the artifact is {sizes['total'] - cap:,} bytes over the cap of {cap:,}",
            place=str(path),
            mend=_advice(entries, cap),
        )
    return {"bytes": sizes, "fits": True}


def _advice(entries: list[Entry], cap: int) -> str:
    """The ledger's largest entries, and how small each would have to be for the cap, were it cut alone."""
    cuts = over_cap_advice([e for e in entries if e.name != "tokenizer"], cap)
    words = [
        f"{c.name} from {c.bytes:,} to {c.bytes_wanted:,} bytes ({c.bits_per_element:.2f} to {c.bits_wanted:.2f} bits each)"
        for c in cuts[:3]
    ]
    return "cut " + "; or ".join(words) if words else "no single section is large enough: make the model smaller"


def score(run: Run) -> dict[str, Any]:
    """bpb of the weights in memory, then of the artifact, read back in fresh processes; and the proof by compression."""
    first = run.recipe["score"][0]()
    first = first.still() or first
    bpb: dict[str, float | None] = {"trained": None, "averaged": None, "packed": None, "sliding": None, "adapted": None}
    text, device = validation(run.data), choose(wanted=run.device)
    for name in ("trained", "averaged"):
        model = empty_model(run)
        load_weights(model, load_file(run.folder / f"{name}.safetensors"))
        bpb[name] = measure(model, model.embed.weight.shape[0], text, first, device, tell=run.journal.progress)["bpb"]
        run.journal.say(f"{name}: {bpb[name]:.4f} bits per byte ({first.name}, in memory)")
    words = "--shards", str(run.data), "--processes", str(run.devices), "--device", run.device
    results = _fresh_process(run, "score", str(run.folder / "artifact.bg"), *words)["methods"]
    bpb["packed"] = results[0]["bpb"]
    for result in results:
        kind = "adapted" if result["adapts"] else result["method"]
        if result is not results[0] or kind in bpb:
            bpb[kind] = result["bpb"]
        run.journal.event("final", **result)
        gain = "" if result["gain"] is None else f", {result['gain']:.4f} of it adaptation's"
        run.journal.say(f"packed: {result['bpb']:.4f} bits per byte ({result['method']}, read back from disk){gain}")
        for remark in result["remarks"]:
            run.journal.event("warning", message=f"{result['method']}: {remark}")
    proof = (
        run.recipe["proof"]().prove(run.folder, run.data, lambda *words: _fresh_process(run, *words))
        if run.recipe["proof"]
        else None
    )
    return {"bpb": bpb, "methods": results, "proof": proof}


def _fresh_process(run: Run, *words: str) -> dict[str, Any]:
    """Run a verb of this program in a process of its own and read its JSON; its progress is shown as it comes."""
    done = subprocess.run([sys.executable, "-m", "bitgolf", *words, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BitgolfError(f"`bitgolf {words[0]}` failed in a fresh process, as said above", place=str(run.folder))
    return json.loads(done.stdout)


def report(run: Run) -> dict[str, Any]:
    """Everything that a reader of the run needs, as `score.json` and as a page."""
    trained, scored, packed, known = (run.done[stage] for stage in ("train", "score", "pack", "calibrate"))
    document = {
        "run": str(run.folder),
        "recipe": run.recipe["name"],
        "hash": identity(run.recipe),
        "seed": run.seed,
        "device": trained["device"],
        "params": trained["parameters"],
        "tokens": trained["tokens"],
        "steps": trained["steps"],
        "seconds": {stage: done["seconds"] for stage, done in run.done.items()}
        | {"training_clock": round(trained["clock"], 2)},
        "clock": known["clock"],
        "calibration": {name: value for name, value in known.items() if name not in ("key", "seconds", "clock")},
        "bpb": scored["bpb"],
        "bytes": packed["bytes"],
        "fits": packed["fits"],
        "proof": scored["proof"],
        "methods": scored["methods"],
        "touched": trained["touched"],
    }
    write_json(run.folder / "score.json", document)
    write_json(run.folder / "environment.json", environment())
    write_bytes(run.folder / "report.html", page(document, run.folder / "log.jsonl").encode())
    return {}
