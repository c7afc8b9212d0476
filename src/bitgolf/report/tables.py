"""Documents as a person reads them."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Sequence[str]


def table(title: str, columns: Sequence[str], rows: Iterable[Row], *, text: int = 1) -> str:
    """A plain table; the first `text` columns are words, the others numbers. Nothing is cut off: terminals wrap."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i < text else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=100_000, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def number(value: Any, form: str = ",") -> str:
    return "-" if value is None else format(value, form)


def run_table(d: dict[str, Any]) -> str:
    """The last word of a run: bpb by stage, bytes by ledger, seconds by stage, and what to try next."""
    bpb = [(k, number(v, ".4f")) for k, v in d["bpb"].items() if v is not None]
    proof = d["proof"]
    if proof:
        bpb.append(
            (f"one file of {proof['bytes_in']:,} bytes, compressed and restored", number(proof["bpb_coded"], ".4f"))
        )
        bpb += [
            (f"all held-out text through {name}", number(v, ".4f"))
            for name, v in proof["general_compressors_bpb"].items()
        ]
    sizes = [(k, number(v)) for k, v in d["bytes"].items() if k != "code"]
    touched = [(t["part"], number(t["tensors"]), number(t["parameters"]), number(t["calls"])) for t in d["touched"]]
    seconds = [(k, number(v, ".1f")) for k, v in d["seconds"].items()]
    return "\n\n".join(
        [
            table("What each part touched", ("part", "tensors", "parameters", "calls"), touched),
            table("Bits per byte (held-out text)", ("stage", "bpb"), bpb),
            methods_table(d["methods"]),
            table("Bytes (total: the model alone)", ("", "bytes"), sizes),
            table("Seconds", ("stage", "s"), seconds),
            _next_steps(d),
        ]
    )


def _next_steps(d: dict[str, Any]) -> str:
    artifact = f"{d['run']}/artifact.bg"
    return "\n".join(
        [
            "Try next:",
            f"  bitgolf generate {artifact} --prompt 'def '",
            f"  bitgolf compress {artifact} FILE FILE.bgz",
            f"  bitgolf ledger {artifact}",
            f"  bitgolf run {d['recipe']} --text PATH          # on your own text",
        ]
    )


def score_table(d: dict[str, Any]) -> str:
    """The methods, what was scored, and what the order of the documents cost, where it cost something."""
    facts = f"{d['targets']:,} targets of {d['bytes']:,} bytes, every one scored once"
    charges = [
        f"{m['method']}: {m['order']} documents first, charged {m['order_bits']:,} bits, {m['order_bits'] / m['bytes']:.5f} bits per byte"
        for m in d["methods"]
        if m["order_bits"]
    ]
    remarks = [f"{m['method']}: {remark}" for m in d["methods"] for remark in m["warnings"]]
    return "\n\n".join([methods_table(d["methods"]), "\n".join([facts, *charges, *remarks])])


def methods_table(methods: Sequence[dict[str, Any]]) -> str:
    """How each method scored, and how fast; `at rest`: the same windows without adaptation; `fresh`: of the tokens read."""
    rows = [
        (m["method"], "cross-document" if m["cross_document"] else "isolated", m["order"], number(m["bpb"], ".4f"), number(m["bpb_without_adaptation"], ".4f"), number(m["gain"], "+.4f"),
         number(m["window"]), number(m["stride"]), number(m["targets_per_second"], ",.0f"), number(m["targets_per_token_read"], ".1%"),
         number(m["seconds"], ".1f"))
        for m in methods
    ]  # fmt: skip
    columns = ("method", "documents", "order", "bpb", "at rest", "gain", "window", "stride", "targets/s", "fresh", "s")
    return table("Score", columns, rows, text=3)


def ledger_table(d: dict[str, Any]) -> str:
    rows = [
        (e["name"], number(e["bytes"]), number(e["elements"]), number(e["bits_per_element"], ".3f"), str(e["codec"]))
        for e in d["entries"]
    ]
    return table(
        "Ledger",
        ("name", "bytes", "elements", "bits each", "codec"),
        [*rows, ("total", number(d["total"]), "", "", "")],
    )


def pack_table(d: dict[str, Any]) -> str:
    """What was tried to fill a cap, and the settings that do."""
    probes = [
        (number(p["octaves"], "+.5f"), number(p["expected"]), number(p["bytes"]), number(p["bytes"] - d["cap"], "+,"), number(p["expected"] / p["bytes"] - 1, "+.2%"))
        for p in d["probes"]
    ]  # fmt: skip
    columns = ("octaves finer", "forecast", "bytes", "to the cap", "forecast error")
    moved = [(s["path"], str(s["before"]), str(s["value"])) for s in d["settings"]]
    return "\n\n".join(
        [
            table("Encodings", columns, probes, text=0),
            table("Settings", ("path", "before", "now"), moved),
            f"{d['bytes']:,} / {d['cap']:,} bytes ({d['counted']}), {d['under']:,} under the cap ({d['under'] / d['cap']:.3%})",
            f"Try next:\n  bitgolf run {d['run']}          # its score; nothing is encoded again",
        ]
    )


def sweep_table(d: dict[str, Any]) -> str:
    """One row for each combination; the columns of what was not known are left out."""
    forms = {"bytes": ",", "predicted": "+.5f", "bpb": ".5f", "loss": "+.5f"}
    known = {name: form for name, form in forms.items() if any(row[name] is not None for row in d["rows"])}
    rows = [
        (*(row["set"][path] for path in d["paths"]), *(number(row[name], form) for name, form in known.items()))
        for row in d["rows"]
    ]
    averaged = "" if d["averaged_bpb"] is None else f"\n\nunrounded: {d['averaged_bpb']:.5f} bits per byte"
    return table("Sweep", (*d["paths"], *known), rows, text=len(d["paths"])) + averaged


def doctor_table(d: dict[str, Any], rows: int = 20) -> str:
    """What each kind of tensor cost, the costliest tensors, the gap, and the alarms."""
    costs = [
        (c["name"], number(c["tensors"]), *(number(c[key], "+.5f") for key in ("predicted_bpb", "measured_bpb", "error_bpb")))
        for c in d["costs"]
    ]  # fmt: skip
    tensors = [
        (t["path"], t["role"], t["codec"], number(t["elements"]), number(t["bits_per_weight"], ".2f"), number(t["max_error"], ".2g"),
         number(t["rms_error"], ".2g"), number(t["predicted_bpb"], "+.5f"), number(t["measured_bpb"], "+.5f"))
        for t in d["tensors"][:rows]
    ]  # fmt: skip
    columns = ("tensor", "role", "codec", "elements", "bits each", "max error", "rms error", "predicted", "measured")
    share = "" if d["explained"] is None else f", {d['explained']:.0%} of it; the rest is interaction"
    summary = (
        f"averaged {d['averaged_bpb']:.4f} bits per byte on {d['tokens']:,} tokens; quantization cost"
        f" {d['gap_bpb']:+.5f} (standard error {d['gap_error_bpb']:.5f}), predicted {d['predicted_bpb']:+.5f};"
        f" one by one {d['sum_bpb']:+.5f}{share}"
    )
    alarms = [f"{a['severity']}: {a['rule']}: {a['place']}: {a['message']}\n  mend: {a['mend']}" for a in d["alarms"]]
    return "\n\n".join(
        [
            table(f"The {len(tensors)} costliest of {len(d['tensors'])} tensors", columns, tensors, text=3),
            table("Stored alone, in bpb", ("", "tensors", "predicted", "measured", "error"), costs),
            summary,
            "\n".join(alarms) or "no alarms",
        ]
    )


def show_table(d: dict[str, Any]) -> str:
    facts = [
        ("hash", d["hash"]),
        ("parameters", number(d["params"])),
        ("layers", str(d["layers"])),
        ("vocabulary", number(d["vocab"])),
    ]
    facts += [(f"  {role}", number(n)) for role, n in d["params_by_role"].items()]
    facts += [
        ("forecast, packed bytes", f"{d['forecast']['bytes']:,} / {d['forecast']['cap']:,}"),
        ("forecast, training memory", f"{d['forecast']['memory']:,}"),
    ]
    parts = table(
        "Parts and settings", ("path", "value"), [(p["path"], str(p["value"])) for p in d["settings"]], text=2
    )
    published = d["published"] or {}
    cautions = "\n".join(f"caution: {c}" for c in d["cautions"])
    sections = [table(d["name"], ("", ""), facts), parts, _published(published), _departures(published), cautions]
    return "\n\n".join(filter(None, sections))


def _published(published: dict[str, Any]) -> str:
    """What others have reported of a recipe, one line for each figure; "" where nobody has."""
    rows: list[Row] = []
    for key, value in published.items():
        words = key.replace("_", " ")
        if isinstance(value, dict):
            rows += [(f"{words}, {name}", _words(v)) for name, v in value.items() if key != "departures"]
        elif value:
            rows.append((words, _words(value)))
    return table("Published by its authors, not measured here", ("", ""), rows, text=2) if rows else ""


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(v)}" for name, v in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _departures(published: dict[str, Any]) -> str:
    """In what a recipe differs from what was published, and the command line's words that undo it."""
    departures = published.get("departures")
    if not isinstance(departures, dict) or not departures:
        return ""
    lines = ["Otherwise than published, and what undoes it:"]
    for words, assignments in departures.items():
        sets = " ".join(f"--set {shlex.quote(assignment)}" for assignment in str(assignments).split())
        lines.append(f"  {words}: {sets or 'nothing'}")
    return "\n".join(lines)
