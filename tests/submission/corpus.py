"""Record folders with one planted fault each, and for each a variant that looks like it and has none.

A case changes the files of `base_folder`. `faulty` and `clean` are lists of (file, old text, new text); an old text of ""
replaces the whole file, a new text of None removes it. `marker` is in the line that the finding names.
"""

from __future__ import annotations

import base64
import lzma
import zlib
from typing import NamedTuple

from .base_folder import SCRIPT

Change = tuple[str, str, str | None]


class Case(NamedTuple):
    """A planted fault. rule: that finds it, in file `path`, at the line with `marker` ("" for the whole file)."""

    name: str
    rule: str
    path: str
    marker: str
    faulty: list[Change]
    clean: list[Change]


CLAIMS, CODE, LOG = "submission.json", "train_gpt.py", "train_seed42.log"
MAIN = "    args = Hyperparameters()\n"
IMPORT = "import zstandard\n"
COMPRESSOR = IMPORT + "\n"
SWITCHED_ON = "        if step > args.max_wallclock_seconds:\n"
FORWARD = "        return F.linear(x, self.weight.to(x.dtype))\n"
READS_SWITCH = "        if CastedLinear.rounded:\n            x = x.round()\n" + FORWARD
COUNTED = '        base_bytes[token] = len(piece.encode("utf-8"))\n'
STRIPPED = '        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n            piece = piece[1:]\n'
BYTES = "        if sp.is_byte(token):\n            base_bytes[token] = 1\n            continue\n"
SERIALIZE = '    serialize(base_model, "final.ptz")\n'
TUNE = (
    "def tune(model, optimizer, val_tokens):\n    for start in range(8):\n"
    "        model(val_tokens[start : start + 9]).backward()\n        optimizer.step()\n\n\ndef main():\n"
)
LOOKUP = "def mixed(table, counts, context, targets, mask):\n{key}\n    return {read}\n\n\ndef main():\n"


def packed(text: str, wrapper: str = "lzma") -> str:
    """Return a script that unpacks and executes `text`."""
    if wrapper == "lzma":
        data = base64.b85encode(lzma.compress(text.encode())).decode()
        return f'import lzma as L,base64 as B\nexec(L.decompress(B.b85decode("{data}")))\n'
    data = base64.b64encode(zlib.compress(text.encode())).decode()
    return f"import zlib, base64\ncode = '{data}'\nexec(zlib.decompress(base64.b64decode(code)).decode('utf-8'))\n"


def option(line: str) -> Change:
    """Return the change that adds a line to the class of options."""
    return CODE, "    eval_stride = int", f"    {line}\n    eval_stride = int"


def in_main(*lines: str) -> Change:
    """Return the change that adds lines at the start of `main`."""
    return CODE, MAIN, MAIN + "".join(f"    {line}\n" for line in lines)


CASES = [
    # files
    Case("no claims", "missing-claims", "", "", [(CLAIMS, "", None)], [(CLAIMS, '  "author"', '  "who"')]),
    Case(
        "broken claims",
        "unreadable-claims",
        CLAIMS,
        "{",
        [(CLAIMS, "1.1022,", "1.1022")],
        [(CLAIMS, '{\n  "author"', '\ufeff{\n  "author"')],
    ),
    Case("claims are a list", "unreadable-claims", CLAIMS, "[", [(CLAIMS, "", "[1]\n")], [(CLAIMS, "\n}", "\n}\n\n")]),
    Case("no script", "missing-script", "", "", [(CODE, "", None)], [(CODE, "", None), ("run.py", "", SCRIPT)]),
    Case(
        "no readme",
        "missing-readme",
        "",
        "",
        [("README.md", "", None)],
        [("README.md", "", None), ("readme.txt", "", "x")],
    ),
    Case(
        "no logs",
        "missing-logs",
        "",
        "",
        [(f"train_seed{seed}.log", "", None) for seed in (42, 314, 999)],
        [("train_seed42.log", "", None), ("logs/seed42.txt", "", "seed:42\nfinal val_bpb: 1.1012\n")],
    ),
    Case(
        "does not parse",
        "does-not-parse",
        CODE,
        "def main(:",
        [(CODE, "def main():", "def main(:")],
        [(CODE, "import glob", "\ufeffimport glob")],
    ),
    Case(
        "prose in code",
        "does-not-parse",
        CODE,
        "Note —",
        [(CODE, "import glob", "Note — a draft\nimport glob")],
        [(CODE, "import glob", "# Note — a draft\nimport glob")],
    ),
    Case(
        "newer f-string",
        "needs-newer-python",
        CODE,
        'f"{args["a"]}"',
        [in_main('print(f"{args["a"]}")'), ("README.md", "3.12", "3.10")],
        [in_main("print(f\"{args['a']}\")"), ("README.md", "3.12", "3.10")],
    ),
    Case(
        "home folder",
        "hard-coded-path",
        CODE,
        "/home/",
        [(CODE, '"./data/datasets', '"/home/someone/data/datasets')],
        [in_main('print("/home/someone was my folder")')],
    ),
    Case(
        "folder of a pod",
        "hard-coded-path",
        CODE,
        "/workspace/",
        [in_main('open("/workspace/run/state.pt")')],
        [in_main('open("/tmp/state.pt")')],
    ),
    # scores
    Case(
        "invented score",
        "claim-not-in-logs",
        CLAIMS,
        '"val_bpb": 1.0512,',
        [(CLAIMS, '"val_bpb": 1.1022,', '"val_bpb": 1.0512,')],
        [(CLAIMS, '"val_bpb": 1.1022,', '"val_bpb": 1.102,')],
    ),
    Case(
        "score of another run",
        "claim-not-in-logs",
        CLAIMS,
        '"1.0899"',
        [(CLAIMS, '"val_bpb": 1.1022,', '"val_bpb": "1.0899",')],
        [(CLAIMS, '"val_bpb": 1.1022,', '"val_bpb": "1.1012",')],
    ),
    Case(
        "invented seed",
        "seed-not-in-logs",
        CLAIMS,
        '"314"',
        [(CLAIMS, '"val_bpb": 1.1032', '"val_bpb": 1.0932')],
        [(CLAIMS, '"val_bpb": 1.1032', '"val_bpb": 1.10319999')],
    ),
    Case(
        "two seeds",
        "few-seeds",
        "",
        "",
        [("train_seed314.log", "", None), (CLAIMS, '"seed_results"', '"by_seed"')],
        [("train_seed314.log", "", None), ("seed_314.txt", "", "seed:314\nfinal val_bpb: 1.1032\n")],
    ),
    Case(
        "seed without log",
        "seed-without-log",
        CLAIMS,
        "7,",
        [(CLAIMS, "    999\n", "    7,\n    999\n"), (CLAIMS, '"seed_results"', '"by_seed"')],
        [(CLAIMS, "    999\n", "    999,\n    42\n"), (CLAIMS, '"seed_results"', '"by_seed"')],
    ),
    Case(
        "one run twice",
        "repeated-log",
        "train_seed7.log",
        "",
        [("train_seed7.log", "", "COPY train_seed42.log")],
        [("train.log", "", "COPY train_seed42.log")],
    ),
    # sizes
    Case(
        "over the cap",
        "over-cap",
        CLAIMS,
        "bytes_total",
        [(CLAIMS, '"bytes_total": 158', '"bytes_total": 168')],
        [(CLAIMS, '"bytes_total": 15892', '"bytes_total": 15999')],
    ),
    Case(
        "a seed over the cap",
        "seed-over-cap",
        LOG,
        "Total submission size int6",
        [(LOG, "zstd: 15892", "zstd: 16092")],
        [(LOG, "size: 67226983", "size: 97226983")],
    ),
    Case(
        "not the worst seed",
        "not-the-worst-seed",
        CLAIMS,
        "bytes_total",
        [(LOG, "zstd: 15892", "zstd: 15895")],
        [(LOG, "zstd: 15892", "zstd: 15890")],
    ),
    Case(
        "code not counted",
        "counted-code-differs",
        CLAIMS,
        "bytes_code",
        [(CLAIMS, '"bytes_code": ', '"bytes_code": 0, "was": ')],
        [(CODE, "import glob\n", "import glob  # shards\n")],
    ),
    Case(
        "binary megabytes",
        "binary-megabytes",
        CODE,
        "16 * 1024 * 1024",
        [in_main("assert os.path.getsize('final.ptz') <= 16 * 1024 * 1024")],
        [in_main("assert os.path.getsize('final.ptz') <= 16 * 1000 * 1000")],
    ),
    Case(
        "2 to the 24",
        "binary-megabytes",
        CODE,
        "1 << 24",
        [in_main("fits = 12 < 1 << 24")],
        [in_main("mask = 1 << 24", "print(mask)")],
    ),
    # clocks
    Case(
        "long training",
        "training-over-limit",
        LOG,
        "stopping_early",
        [(LOG, "597000ms", "697000ms")],
        [(LOG, "597000ms", "600055ms"), (LOG, "in 2.5s", "in 0.5s")],
    ),
    Case(
        "long evaluation",
        "scoring-over-limit",
        LOG,
        "final_int6",
        [(LOG, "eval_time:91000ms", "eval_time:691000ms")],
        [(LOG, "eval_time:91000ms", "eval_time:591000ms")],
    ),
    Case(
        "evaluations together",
        "scoring-over-limit",
        LOG,
        "total_eval_time",
        [(LOG, "GPTQ", "total_eval_time:612.4s\nGPTQ")],
        [(LOG, "GPTQ", "total_eval_time:512.4s\nGPTQ")],
    ),
    Case(
        "calibration after the clock",
        "calibration-outside-clock",
        LOG,
        "Hessians",
        [(LOG, "in 2.5s", "in 9.5s")],
        [(LOG, "in 2.5s", "in 3.5s")],
    ),
    Case(
        "one GPU",
        "other-machine",
        LOG,
        "world_size",
        [(LOG, "world_size:8", "world_size:1")],
        [(LOG, "world_size:8 grad", "grad")],
    ),
    # data
    Case(
        "part of the text",
        "partial-validation",
        LOG,
        "tokens:",
        [(LOG, "tokens:62021632", "tokens:1048576")],
        [(LOG, "tokens:62021632", "tokens:62021845")],
    ),
    Case(
        "other shards by the same name",
        "validation-tokens",
        LOG,
        "tokens:",
        [(LOG, "tokens:62021632", "tokens:58021632")],
        [(LOG, "tokens:62021632", "tokens:61998080")],
    ),
    Case(
        "10,000 documents",
        "validation-documents",
        LOG,
        "total_docs",
        [(LOG, "GPTQ", "ttt: total_docs:10000\nGPTQ")],
        [(LOG, "GPTQ", "ttt: total_docs:49999\nGPTQ")],
    ),
    Case(
        "shards of one's own",
        "local-shards",
        LOG,
        "train_shards",
        [(LOG, "train_shards:80", "train_shards:1499")],
        [(LOG, "train_shards:80", "train_shards:195")],
    ),
    # code
    Case(
        "option of nothing",
        "unread-option",
        CODE,
        "ROPE_SCALE",
        [option('rope_scale = float(os.environ.get("ROPE_SCALE", 1.0))')],
        [option('rope_scale = float(os.environ.get("ROPE_SCALE", 1.0))'), in_main("print(args.rope_scale)")],
    ),
    Case(
        "option of the module",
        "unread-option",
        CODE,
        "LATE",
        [(CODE, "class Hyper", 'LATE = os.getenv("LATE", "0")\n\n\nclass Hyper')],
        [
            (CODE, "class Hyper", 'LATE = os.getenv("LATE", "0") == LATE_ON\n\n\nclass Hyper'),
            (CODE, "import glob\n", 'import glob\nLATE_ON = "1"\n'),
            in_main("print(LATE)"),
        ],
    ),
    Case(
        "option by a text",
        "unread-option",
        CODE,
        "WARM",
        [option('warm = int(os.environ.get("WARM", 1))')],
        [option('warm = int(os.environ.get("WARM", 1))'), in_main('print(getattr(args, "warm"))')],
    ),
    Case(
        "late switch",
        "late-switch",
        CODE,
        "CastedLinear.rounded = True",
        [(CODE, FORWARD, READS_SWITCH), (CODE, SWITCHED_ON, "        CastedLinear.rounded = True\n" + SWITCHED_ON)],
        [
            (CODE, FORWARD, READS_SWITCH),
            (
                CODE,
                SWITCHED_ON,
                "        CastedLinear.rounded = True\n        model = torch.compile(base_model)\n" + SWITCHED_ON,
            ),
        ],
    ),
    Case(
        "weaker compressor",
        "silent-compressor",
        CODE,
        "try:",
        [(CODE, COMPRESSOR, "try:\n    import zstandard\nexcept ImportError:\n    import zlib as zstandard\n\n")],
        [
            (
                CODE,
                COMPRESSOR,
                "try:\n    import zstandard\nexcept ImportError:\n    print('zstandard is missing')\n    raise\n\n",
            )
        ],
    ),
    Case(
        "slower kernel",
        "silent-kernel",
        CODE,
        "try:",
        [
            (
                CODE,
                IMPORT,
                IMPORT
                + "try:\n    from flash_attn import flash_attn_func\nexcept ImportError:\n    flash_attn_func = None\n",
            )
        ],
        [
            (
                CODE,
                IMPORT,
                IMPORT
                + "try:\n    from flash_attn import flash_attn_func\nexcept ImportError as error:\n    print('no flash attention', error)\n",
            )
        ],
    ),
    Case(
        "space counted twice",
        "space-counted-twice",
        CODE,
        "replace",
        [
            (
                CODE,
                STRIPPED + COUNTED,
                '        has_leading_space[token] = True\n        text = piece.replace("\\u2581", " ")\n        base_bytes[token] = len(text.encode())\n',
            )
        ],
        [(CODE, COUNTED, '        piece = piece.replace("\\u2581", " ")\n' + COUNTED)],
    ),
    Case(
        "marker counted",
        "space-marker-counted",
        CODE,
        "piece.encode",
        [(CODE, STRIPPED, "")],
        [(CODE, '"\\u2581"', "chr(0x2581)")],
    ),
    Case(
        "names of byte pieces",
        "byte-piece-length",
        CODE,
        "piece.encode",
        [(CODE, BYTES, "")],
        [(CODE, "sp.is_byte(token)", 'sp.id_to_piece(token).startswith("<0x")')],
    ),
    Case(
        "calibrated on validation",
        "calibrates-on-validation",
        CODE,
        "collect_hessians(base_model, val_tokens)",
        [(CODE, "collect_hessians(base_model, train_batches)", "collect_hessians(base_model, val_tokens)")],
        [in_main("val_tokens = 3", "print(val_tokens)")],
    ),
    Case(
        "trained on validation",
        "trains-on-validation",
        CODE,
        "    tune(base",
        [(CODE, "def main():\n", TUNE), (CODE, SERIALIZE, "    tune(base_model, optimizer, val_tokens)\n" + SERIALIZE)],
        [(CODE, "def main():\n", TUNE), (CODE, SERIALIZE, SERIALIZE + "    tune(base_model, optimizer, val_tokens)\n")],
    ),
    Case(
        "target in the key",
        "target-in-key",
        CODE,
        "key = ",
        [
            (
                CODE,
                "def main():\n",
                LOOKUP.format(
                    key="    key = (context ^ (targets * 36313)) & mask", read="table[key] / counts[context]"
                ),
            )
        ],
        [(CODE, "def main():\n", LOOKUP.format(key="    key = (context * 36313) & mask", read="table[key][targets]"))],
    ),
    # the same inside packed code
    Case(
        "packed option",
        "unread-option",
        CODE + " (unpacked)",
        "ROPE_SCALE",
        [
            (
                CODE,
                "",
                packed(
                    SCRIPT.replace("    eval_stride", '    rope = os.environ.get("ROPE_SCALE")\n    eval_stride', 1)
                ),
            )
        ],
        [(CODE, "", packed(SCRIPT))],
    ),
    Case(
        "packed twice",
        "does-not-parse",
        CODE + " (unpacked) (unpacked)",
        "def main(:",
        [(CODE, "", packed(packed(SCRIPT.replace("def main():", "def main(:")), "zlib"))],
        [(CODE, "", packed(packed(SCRIPT), "zlib"))],
    ),
]
