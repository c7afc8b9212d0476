"""A small record folder without a fault, from which the folders of the corpus are made."""

from __future__ import annotations

import json

NAME = "track_10min_16mb/2026-01-01_Example"
SEEDS = {42: 1.1012, 314: 1.1032, 999: 1.1022}

SCRIPT = """\
import glob
import os
import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F
import zstandard


class Hyperparameters:
    data_path = os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024")
    seed = int(os.environ.get("SEED", 1337))
    iterations = int(os.environ.get("ITERATIONS", 20000))
    max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))
    eval_stride = int(os.environ.get("EVAL_STRIDE", 64))


class CastedLinear(torch.nn.Linear):
    rounded = False

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def build_sentencepiece_luts(sp, vocab_size):
    base_bytes = np.zeros(vocab_size, dtype=np.int16)
    has_leading_space = np.zeros(vocab_size, dtype=bool)
    for token in range(sp.vocab_size()):
        if sp.is_byte(token):
            base_bytes[token] = 1
            continue
        piece = sp.id_to_piece(token)
        if piece.startswith("\\u2581"):
            has_leading_space[token] = True
            piece = piece[1:]
        base_bytes[token] = len(piece.encode("utf-8"))
    return base_bytes, has_leading_space


def eval_val(args, model, val_tokens):
    total = 0.0
    for start in range(0, len(val_tokens) - 1, args.eval_stride):
        total += model(val_tokens[start : start + 1024]).item()
    return total


def collect_hessians(model, batches):
    for x in batches:
        model(x)


def serialize(model, path):
    with open(path, "wb") as file:
        file.write(zstandard.ZstdCompressor(22).compress(model.pack()))


def main():
    args = Hyperparameters()
    torch.manual_seed(args.seed)
    sp = spm.SentencePieceProcessor(model_file="tokenizer.model")
    luts = build_sentencepiece_luts(sp, 1024)
    files = sorted(glob.glob(args.data_path + "/fineweb_train_*.bin"))
    val_tokens = torch.load(args.data_path + "/val.bin")
    base_model = torch.nn.Sequential(CastedLinear(8, 8))
    model = torch.compile(base_model)
    optimizer = torch.optim.Adam(base_model.parameters())
    for step in range(args.iterations):
        loss = model(files[step])
        loss.backward()
        optimizer.step()
        if step > args.max_wallclock_seconds:
            break
    train_batches = files[:4]
    collect_hessians(base_model, train_batches)
    serialize(base_model, "final.ptz")
    print(eval_val(args, base_model, val_tokens), luts)


main()
"""

LOG = """\
world_size:8 grad_accum_steps:1
val_loader:shards pattern=./data/datasets/fineweb10B_sp1024/fineweb_val_*.bin tokens:62021632
train_loader:dataset:fineweb10B_sp1024 train_shards:80
seed:{seed}
step:1000/20000 val_loss:2.1000 val_bpb:1.2500 train_time:60000ms step_avg:60.00ms
step:9950/20000 val_loss:1.9000 val_bpb:{averaged:.4f} train_time:597000ms step_avg:60.00ms
stopping_early: wallclock_cap train_time:597000ms step:9950/20000
Serialized model: 67224983 bytes
Code size: {code} bytes
Total submission size: 67226983 bytes
GPTQ:collected 66 Hessians in 2.5s
Serialized model int6+zstd: 15890000 bytes
Total submission size int6+zstd: {total} bytes
final_int6_roundtrip_exact val_loss:1.87000000 val_bpb:{bpb:.8f} eval_time:91000ms
"""


def base_folder() -> dict[str, str]:
    """Return the files of the folder by name, with their texts."""
    code, total = len(SCRIPT.encode()), 15_890_000 + len(SCRIPT.encode())
    files = {"README.md": "# Example\n\nPython 3.12, three seeds.\n", "train_gpt.py": SCRIPT}
    for seed, bpb in SEEDS.items():
        files[f"train_seed{seed}.log"] = LOG.format(seed=seed, averaged=bpb - 0.02, bpb=bpb, code=code, total=total)
    claims = {
        "author": "A",
        "name": "Example",
        "date": "2026-01-01",
        "val_bpb": 1.1022,
        "seeds": list(SEEDS),
        "seed_results": {str(seed): {"val_bpb": bpb} for seed, bpb in SEEDS.items()},
        "bytes_total": total,
        "bytes_code": code,
    }
    files["submission.json"] = json.dumps(claims, indent=2) + "\n"
    return files
