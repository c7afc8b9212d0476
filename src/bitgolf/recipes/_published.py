"""What the recipes of published systems share: how they route parameters, and how their results are written down.

Results are the authors' own, on FineWeb's validation text, read from their logs and submissions; nothing here was
measured by us. `bpb` holds the mean over the seeds (of one, the one submitted) by stage: `trained` before averaging,
`averaged`, `packed` (the contiguous windows of the quantized model), `sliding`, `adapted` (after adaptation at scoring
time); `bytes` is the largest file of these seeds.

All recipes train as published, and store more simply: what the originals did between the trained and the packed model
is not here yet (GPTQ from #1019 on, selective pruning, LQER, mixed int5 and int6, tensors compressed in groups), nor
is adaptation at scoring time. No step of a code has the floor of 1/31 that #164 to #1218 gave theirs.
"""

from __future__ import annotations

from typing import Any

from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.rules import Rule
from bitgolf.spec import Spec, part

H100 = "8 x H100 SXM, 600 s"

# Departures that nothing undoes.
CLIPPED = {"the gradient is clipped after the mean over all processes, where each clipped its own": ""}
CASEOPS = {"the text is as it is, where the original wrote capitals as operators (CaseOps)": ""}


def groups(
    matrix: Spec[Muon], embedding: Spec[Adam], scalar: Spec[Adam], *, projections: str = "matrix"
) -> tuple[Spec[Rule], ...]:
    """The field's routing: matrices to Muon, tables to one Adam, everything small to another.

    `projections` says where the matrices of the input side (bigram, value table) go: to `matrix`, as in the scripts
    with a parameter for each layer, or to `scalar`, as in those with parameter banks.
    """
    aside = (part(Rule, where="matrix@enter.**", use=scalar),) if projections == "scalar" else ()
    return (
        *aside,
        part(Rule, where="matrix", use=matrix),
        part(Rule, where="embedding", use=embedding),
        part(Rule, where="*", use=scalar),
    )


def results(
    pull_request: int,
    *,
    bpb: dict[str, float],
    bytes: int,
    params: int | None,
    seeds: dict[int, dict[str, float]] | None = None,
    hardware: str = H100,
    departures: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A recipe's `published`: `seeds` by seed, `departures` as what differs here -> the `--set` that undoes it."""
    return {
        "source": f"openai/parameter-golf, pull request {pull_request}",
        "hardware": hardware,
        "text": "FineWeb, first 50,000 documents",
        "params": params,
        "bpb": bpb,
        "bytes": bytes,
        "seeds": {str(seed): values for seed, values in (seeds or {}).items()},
        "departures": departures or {},
        **more,
    }
