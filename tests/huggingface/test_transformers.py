"""The folder of `to-hf` in transformers itself, in a Python that does not import bitgolf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bitgolf
from bitgolf.commands.to_hf import to_hf
from bitgolf.config.spec import part
from bitgolf.score.methods import ContiguousScoring
from helpers.toy_artifact import make_toy

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `transformers`")

PROMPTS = ["abc de", "fgh ab cde, \u2581 é <s>"]
PROGRAM = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text, *prompts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
assert "bitgolf" not in sys.modules
greedy = {"max_new_tokens": 40, "do_sample": False}
single = [model.generate(**tokenizer(prompt, return_tensors="pt"), **greedy)[0].tolist() for prompt in prompts]
batch = tokenizer(prompts, return_tensors="pt", padding=True)
padded = model.generate(**batch, **greedy)
beams = [
    model.generate(**batch, max_new_tokens=12, num_beams=3, do_sample=False, use_cache=cached).tolist()
    for cached in (True, False)
]
ids = tokenizer(text, return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model(ids).logits
targets = torch.cat([ids[0, 1:], ids[0, :1]])
bits = -logits[0].double().log_softmax(-1).gather(1, targets[:, None]).sum().item() / torch.tensor(2.0).log().item()
model.save_pretrained(folder + "-saved")
tokenizer.save_pretrained(folder + "-saved")
again = AutoModelForCausalLM.from_pretrained(folder + "-saved", trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(again(ids).logits, logits)
assert AutoTokenizer.from_pretrained(folder + "-saved", trust_remote_code=True)(text)["input_ids"] == ids[0].tolist()
save_file({"logits": logits[0], "ids": ids[0]}, folder + "-logits")
print(json.dumps({
    "single": single, "padded": padded.tolist(), "beams": beams, "bpb": bits / len(text.encode()),
    "text": tokenizer.decode(single[0], skip_special_tokens=True), "vocabulary": len(tokenizer),
    "seeded": [model.generate(**batch, do_sample=True, max_new_tokens=5).shape[1], batch["input_ids"].shape[1] + 5],
}))
"""


def test_loading_sampling_and_scores(tmp_path: Path) -> None:
    """Logits equal ours bit for bit; greedy text is that of `generate`; padding and caches change no token."""
    toy = make_toy(tmp_path)
    to_hf(toy.artifact, tmp_path / "hf")
    text = (toy.raw / "00.txt").read_text()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "hf"), text, *PROMPTS]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found, model = json.loads(done.stdout), bitgolf.load(toy.artifact)
    saved = load_file(tmp_path / "hf-logits")
    assert saved["ids"].tolist() == [model.tokenizer.bos, *model.encode(text).tolist()]
    assert torch.equal(saved["logits"], model.logits(saved["ids"]))
    whole = part(ContiguousScoring, window=4096)
    assert found["bpb"] == pytest.approx(model.bpb(text, method=whole, progress=False), abs=1e-4)
    assert found["vocabulary"] == model.tokenizer.vocab
    for single, padded in zip(found["single"], found["padded"], strict=True):
        assert padded[-len(single) :] == single
    assert found["text"].startswith(PROMPTS[0]) and found["seeded"][0] <= found["seeded"][1]
    assert found["beams"][0] == found["beams"][1]
    assert model.generate(PROMPTS[0], tokens=20, temperature=0).startswith(found["text"][: len(PROMPTS[0]) + 10])
