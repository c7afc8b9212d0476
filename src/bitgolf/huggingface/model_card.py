"""README.md of a folder: what the model is, what was measured of it, and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from bitgolf import __version__
from bitgolf.artifact.model import LoadedArtifact
from bitgolf.huggingface.folder import context_length
from bitgolf.pipeline.result import RunResult

USAGE = """\
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50, do_sample=True)[0], skip_special_tokens=True))
```

`requirements.txt` lists the packages that this needs; bitgolf is not among them. The code in `modeling_bitgolf.py` and `tokenization_bitgolf.py` is what bitgolf itself runs, reduced to what this model reaches. A text begins with the token `bos_token`, which the tokenizer adds, and the model ends a text with the same token. The model is a plain language model: it follows no instructions.
"""


def model_card(loaded: LoadedArtifact, artifact_bytes: int, result: RunResult | None, name: str) -> str:
    """Return the model card. artifact_bytes: of the packed file. result: of its run, None if that is unknown."""
    parameters = sum(p.numel() for p in loaded.model.parameters())
    facts = [
        ("parameters", f"{parameters:,}"),
        ("packed artifact with its tokenizer", f"{artifact_bytes:,} bytes"),
        ("vocabulary", f"{loaded.tokenizer.vocab:,} tokens ({loaded.tokenizer.kind})"),
        ("context in scoring", f"{context_length(loaded):,} tokens"),
    ]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [bitgolf, parameter-golf]",
        "---",
        "",
        f"# {loaded.name or 'A model of bitgolf'}",
        "",
        f"A small language model, trained and packed by bitgolf {__version__}. `model.safetensors` has the weights as they"
        " are decoded from the packed artifact, so the logits are those of the artifact.",
        "",
        *_table(("fact", "value"), facts),
        "",
        *(
            _measured(result)
            if result
            else ["No figures were measured: the artifact was not in the folder of its run.", ""]
        ),
        USAGE.format(name=name),
    ]
    return "\n".join(lines)


def _measured(result: RunResult) -> list[str]:
    """The lines on what a run has measured."""
    scores = [(stage, f"{bpb:.4f}") for stage, bpb in result.bpb.items() if bpb is not None]
    text = result.held_out
    described = (
        f"Bits per byte of {text.bytes:,} bytes of held-out text ({text.documents:,} documents). `trained` and `averaged`"
        " are scores of the weights before packing; the others are scores of the artifact, read back from disk."
    )
    trained = (
        f"Trained for {result.steps:,} steps on {result.tokens:,} tokens in {result.training_clock.total:.1f} s"
        f" (calibration included) on {result.device}. Recipe `{result.recipe}` ({result.hash}), seed {result.seed}."
    )
    notes = [note for note in (result.quick_note, result.sample_note) if note]
    heading = ["## Measured", "", trained, ""]
    return [*heading, *(line for note in notes for line in (note, "")), *_scored(described, scores)]


def _scored(described: str, scores: Sequence[tuple[str, str]]) -> list[str]:
    return [described, "", *_table(("score", "bits per byte"), scores), ""] if scores else []


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
