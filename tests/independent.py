"""Scores of a saved LKS patch, worked out with nothing of this project: transformers, safetensors and pyarrow alone.

Run: `python tests/independent.py MODEL_FOLDER PATCH_FOLDER answers.parquet`
"""

import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

METRICS = {"edit": "reliability", "paraphrase": "generality", "locality": "locality"}


def place_of(prompt, names):
    """(subject, character behind its last mention), the longest name first; None if nobody is mentioned."""
    for name, subject in sorted(((name, i) for i, spellings in enumerate(names) for name in spellings), key=lambda pair: -len(pair[0])):
        start = prompt.rfind(name)
        if start >= 0 and not re.match(r"\w", prompt[start + len(name) :]) and not re.search(r"\w$", prompt[:start]):
            return subject, start + len(name)
    return None


def greedy(model, ids, count):
    """So many most likely tokens, each from a whole forward pass."""
    for _ in range(count):
        ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[-count:] if count else []


def read(model, tokenizer, block, settings, table, row):
    """Argmax under teacher forcing, and the model's own tokens; with a table the edited model's."""
    whole = tokenizer(f"{row['prompt']} {row['answer']}", return_offsets_mapping=True)
    ids, offsets = whole["input_ids"], whole["offset_mapping"]
    head = next(i for i, (_, end) in enumerate(offsets) if end > len(row["prompt"]))
    found = place_of(row["prompt"], settings["names"]) if table is not None else None
    if found is not None:
        token = max(i for i, (start, end) in enumerate(offsets) if start < found[1] and end > start)
        new = table[0, found[0]]

    def put(_module, _args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, token] = new
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(put) if found is not None else None
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        said = greedy(model, ids[:head], len(ids) - head)
    if handle is not None:
        handle.remove()
    return ids[head:], best[head - 1 : -1], said


def scores(model_folder, patch_folder, shard):
    """{"tf_token reliability": mean, ...} of the saved patch on the prompts of a shard of answers."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    settings = json.loads((Path(patch_folder) / "patch.json").read_text())["settings"]
    table = load_file(Path(patch_folder) / "patch.safetensors")["table"].float()
    assert settings["positions"] == "last" and settings["threshold"] is None and len(settings["blocks"]) == 1
    block = model.model.layers[settings["blocks"][0]]
    found = {}
    for row in pq.read_table(shard).to_pylist():
        if row["kind"] not in METRICS:
            continue
        wanted, best, said = read(model, tokenizer, block, settings, table, row)
        by_force, by_itself = wanted, wanted
        if row["kind"] == "locality":
            _, by_force, by_itself = read(model, tokenizer, block, settings, None, row)
        for readout, right, given in (("tf", by_force, best), ("ar", by_itself, said)):
            agreed = [a == b for a, b in zip(right, given, strict=True)]
            found.setdefault(f"{readout}_token {METRICS[row['kind']]}", []).append(sum(agreed) / len(agreed))
            found.setdefault(f"{readout}_exact {METRICS[row['kind']]}", []).append(float(all(agreed)))
    return {name: sum(each) / len(each) for name, each in found.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scores(*sys.argv[1:4]), indent=1) + "\n")
