"""Sixteen published techniques, one at a time on a common base: `python bench/ablate.py [--text FILE...] [--jobs N]`.

The base is the baseline of the challenge at a million parameters. Every run has the same number of steps on the same
batches (of its seed), and is scored on the same held-out tokens, as trained and after int6 rounding. Each finished run
appends one JSON line to the results file, and runs that have a line are not repeated: the command may be stopped at any
time. `--table results/ablation.jsonl` prints the table of `docs/techniques.md` and runs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from corpus import add_text_options, corpus_id, shards_folder
from result_lines import append_line, read_lines

from bitgolf.average.swa import SWA
from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader, ShuffledWindows
from bitgolf.data.manifest import load_manifest, open_split
from bitgolf.grids.clip import SdClip
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.values import ValueResidual
from bitgolf.model.block import Block
from bitgolf.model.build import build_on_meta
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredLeakyReLU, SwiGLU
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only
from bitgolf.model.residual import DepthScaledNorm
from bitgolf.model.residual_topology import ParallelResidual
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowNorm
from bitgolf.optim.orthogonalize import PolarExpress
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.encoding import decode_model, encode_model
from bitgolf.recipes import get_recipe
from bitgolf.recipes._qat import qat
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.environment import collect_environment
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.score.execution.forward import kernel_selector
from bitgolf.score.methods import ContiguousScoring
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import load_validation
from bitgolf.training.trainer import Trainer

SEEDS, LENGTH, LAYERS = (0, 1, 2), 256, 8


class Technique(NamedTuple):
    """What to change, and what was published of it (bits per byte on FineWeb, at full size)."""

    name: str
    published: str
    edit: Callable[[Spec[Recipe]], Spec[Recipe]]


def with_attention_part(**parts: Spec[Any]) -> Callable[[Spec[Recipe]], Spec[Recipe]]:
    return lambda recipe: recipe.edit(Attention, append(**parts))


def key_offset(recipe: Spec[Recipe]) -> Spec[Recipe]:
    qk = recipe["model.block.mixer.qk"]
    late = only(f"last {LAYERS // 2 - 1}", part(KeyOffset, unshifted_dims=16))
    return recipe.set("model.block.mixer.qk", (*qk[:-1], late, qk[-1]))


def partial_rope(recipe: Spec[Recipe]) -> Spec[Recipe]:
    return recipe.edit(RoPE, replace(dims=8)).edit(Block, replace(norm=part(DepthScaledNorm)))


def bigrams(recipe: Spec[Recipe]) -> Spec[Recipe]:
    table = part(
        HashedNGramEmbedding, buckets=1024, width=32, project=part(Linear, init=part(OrthogonalInit, min_side=32))
    )
    return recipe.set("model.post_embed", (table, *recipe["model.post_embed"]))


TECHNIQUES = (
    Technique("base", "", lambda recipe: recipe),
    Technique("MLP 3x", "-0.02 (#164)", lambda r: r.edit(MLP, replace(hidden=384))),
    Technique("ValueResidual", "-0.015 (#486)", with_attention_part(value=part(ValueResidual))),
    Technique("BlendSmear", "-0.012 with orthogonal start (#1090)", lambda r: r.edit("model", append(post_embed=part(BlendSmear)))),
    Technique("ExclusiveSelfAttention", "-0.005 (#1090)", with_attention_part(post_attention=part(ExclusiveSelfAttention))),
    Technique("SwiGLU", "-0.004 at equal parameters (#1090)", lambda r: r.set("model.block.mlp", part(SwiGLU, hidden=176))),
    Technique("SquaredLeakyReLU", "-0.003 (#493)", lambda r: r.edit(MLP, replace(act=part(SquaredLeakyReLU)))),
    Technique("LoopedLayers", "-0.003 (#1285)", lambda r: r.edit(UNet, replace(order=part(LoopedLayers, first_layer=3, last_layer=4, since=(0.35,))))),
    Technique("SWA", "-0.003 (#1090)", lambda r: r.replace(average=part(SWA, every=5, lr_scale_below=0.4))),
    Technique("KeyOffset", "-0.0026 with higher QK gain (#1512)", key_offset),
    Technique("partial RoPE + DepthScaledNorm", "-0.0023 (#315)", partial_rope),
    Technique("ParallelResidual", "-0.002 (#1412)", lambda r: r.edit(UNet, replace(residual=part(ParallelResidual, layers="5-7")))),
    Technique("OrthogonalInit", "-0.002 (#1090)", lambda r: r.edit("model.block.**.linear", replace(init=part(OrthogonalInit)))),
    Technique("HashedNGramEmbedding", "-0.002 for 4,096 to 10,240 (#180)", bigrams),
    Technique("PolarExpress", "one of four worth -0.0017 (#1787)", lambda r: r.edit(Muon, replace(orthogonalize=part(PolarExpress)))),
    Technique("RowNorm", "-0.001 (#1217)", lambda r: r.edit(Muon, replace(pre_orthogonalize=(part(RowNorm),)))),
    Technique(
        "FakeQuant from the start",
        "quantization gap to 0.000-0.0015 (#63)",
        qat,
    ),
)  # fmt: skip


def base(steps: int) -> Spec[Recipe]:
    """The challenge's baseline, eight layers of width 128, a batch of 2,048 tokens."""
    recipe = get_recipe("baseline").set("model.layers", LAYERS).set("model.dim", 128).edit(MLP, replace(hidden=256))
    recipe = recipe.edit(Attention, replace(heads=4, kv_heads=2))
    optim = (
        part(Rule, where="matrix", use=part(Muon, lr=0.03, momentum=part(LinearRamp, start=0.85, end=0.95, steps=300))),
        part(Rule, where="*", use=part(Adam, lr=0.02)),
    )
    limits = replace(
        seconds=0.0, steps=steps, rows=8, micro_rows=0, length=LENGTH, order=part(ShuffledWindows), optim=optim
    )
    recipe = recipe.edit("train", limits).set("train.lr_schedule", part(WarmdownFraction, fraction=0.5))
    return recipe.replace(quantize=int6(), published=None)


def int6() -> tuple[Spec[Rule], ...]:
    return (
        part(Rule, where="scale", use=part(Float, dtype="float16")),
        part(Rule, where="embedding", use=part(IntRows, bits=8, clip=part(SdClip, k=20.0))),
        part(Rule, where="*", use=part(IntRows, bits=6, clip=part(SdClip, k=12.85))),
    )


def train_and_score(recipe: Spec[Recipe], data: Path, seed: int, tokens: int) -> dict[str, Any]:
    """Train and score one run: bits per byte as trained (and averaged), and after int6."""
    manifest, device, settings = load_manifest(data), select_device(), recipe().train()
    batches = BatchLoader(
        open_split(data, "train"),
        rows=settings.rows,
        length=settings.length,
        order=settings.order(),
        seed=seed,
    )
    trainer = Trainer(
        recipe().model,
        recipe().train,
        recipe().average,
        BuildContext(vocab=manifest.vocab, bos=manifest.bos),
        batches,
        device,
        DistributedContext(),
        seed,
    )
    started = time.perf_counter()
    for step in range(settings.steps):
        trainer.step(step, TrainingProgress(step, settings.steps, 0.0, 0.0))
    seconds = time.perf_counter() - started
    values = [p.detach() for p in trainer.params.values()]
    if trainer.average:
        values = trainer.average.result(trainer.average_state, values)
    found = dict(zip(trainer.params, values, strict=True))
    weights = {k: v for k, v in found.items() if not k.startswith("objective.")}
    kinds, shapes = parameter_roles(trainer.model), {k: tuple(v.shape) for k, v in weights.items()}
    rounded = decode_model(encode_model(weights, kinds, int6()), shapes, kinds, int6())
    bpb = {name: held_out_bpb(recipe, manifest.vocab, state, data, tokens) for name, state in (("float", weights), ("int6", rounded))}  # fmt: skip
    return {"bpb": bpb, "params": sum(v.numel() for v in weights.values()), "train_seconds": round(seconds, 1)}


def held_out_bpb(recipe: Spec[Recipe], vocab: int, state: dict[str, Any], data: Path, tokens: int) -> float:
    model: LM = build_on_meta(recipe().model, vocab)
    model.load_state_dict(state, assign=True)
    share = load_validation(data).head(tokens)  # its bytes are estimated in proportion, equally for every run
    device = select_device()
    player = StaticPlayer(model.eval(), vocab, device, kernels=kernel_selector(device))
    return score(player, share, ContiguousScoring(window=LENGTH)).bpb


def pending_runs(
    done: list[dict[str, Any]], seeds: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[Technique, int]]:
    """Yield the techniques and seeds without a line, the base first."""
    have = {(line["technique"], line["seed"]) for line in done}
    for seed in seeds:
        yield from ((t, seed) for t in TECHNIQUES if t.name in names and (t.name, seed) not in have)


def run(options: argparse.Namespace) -> None:
    data, steps = shards_folder(options), options.steps
    corpus = corpus_id(data)
    if options.threads:
        torch.set_num_threads(options.threads)
    done = [line for line in read_lines(options.out) if line.get("corpus") == corpus]
    for technique, seed in pending_runs(done, options.seeds, options.techniques):
        if job_index(technique.name, seed) % options.jobs != options.job:
            continue
        recipe = technique.edit(base(steps))
        line = {
            "bench": "ablate",
            "corpus": corpus,
            "technique": technique.name,
            "seed": seed,
            "steps": steps,
            "hash": recipe_hash(recipe),
        }
        line |= train_and_score(recipe, data, seed, options.tokens) | {"environment": collect_environment()}
        append_line(options.out, line)
        print(f"{technique.name}, seed {seed}: {line['bpb']}, {line['train_seconds']} s", file=sys.stderr)


def job_index(name: str, seed: int) -> int:
    """A number that spreads the runs over jobs, the same in every process."""
    return [t.name for t in TECHNIQUES].index(name) + seed


def table(done: list[dict[str, Any]]) -> str:
    """Differences from the base of the same seed: mean and standard deviation over the seeds."""
    found = {(line["technique"], line["seed"]): line for line in done}
    rows = ["| technique | published | as trained | after int6 | parameters |", "| --- | --- | --- | --- | --- |"]
    for technique in TECHNIQUES:
        lines = {seed: line for (name, seed), line in found.items() if name == technique.name}
        cells = [cell(lines, found, kind, technique.name == "base") for kind in ("float", "int6")]
        params = next(iter(lines.values()))["params"] if lines else 0
        rows.append(f"| {technique.name} | {technique.published} | {cells[0]} | {cells[1]} | {params:,} |")
    return "\n".join(rows)


def cell(lines: dict[int, Any], found: dict[tuple[str, int], Any], kind: str, absolute: bool) -> str:
    values = [
        line["bpb"][kind] - (0.0 if absolute else found["base", seed]["bpb"][kind])
        for seed, line in sorted(lines.items())
        if ("base", seed) in found
    ]
    if len(values) < 2:
        return "not measured"
    return f"{statistics.mean(values):{'' if absolute else '+'}.4f} ± {statistics.stdev(values):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_text_options(parser)
    names = [technique.name for technique in TECHNIQUES]
    parser.add_argument("--out", type=Path, default=Path("runs/ablation.jsonl"), help="file of the measured lines")
    parser.add_argument("--techniques", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=250, help="training steps of each run")
    parser.add_argument("--tokens", type=int, default=65_536, help="held-out tokens to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: as many as it takes)")
    parser.add_argument("--jobs", type=int, default=1, help="how many such commands share the work")
    parser.add_argument("--job", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of lines and run nothing")
    options = parser.parse_args()
    print(table(read_lines(options.table))) if options.table else run(options)


if __name__ == "__main__":
    main()
