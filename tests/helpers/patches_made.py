"""A small saved patch of every kind, and their tensors under other headers."""

import json
import random
import struct
from pathlib import Path

import torch

from lks.editing.patch import NoPatch, Patch, WeightPatch
from tests.helpers import mutations


def made(folder: Path) -> list[Path]:
    """Folders of saved patches."""
    from baselines._in_context.retrieval_patch import FactsInFront, FactText, Lookup
    from baselines._serac.counterfactual import Counterfactual
    from baselines._serac.patch import EncoderSettings, SeracPatch
    from baselines.grace import CodebookPatch
    from baselines.wise import SideMemoryPatch
    from lks.method.relation_gate import RelationGate
    from lks.method.replacer import KnowledgeBlockPatch

    encoder = EncoderSettings("", 1, 8, 4)
    model = {
        "model_type": "llama",
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    names, table = [["Mara Kel", "M. Kel"], ["Bo Ek"]], torch.ones(1, 2, 8)
    gate = RelationGate(torch.ones(2, 8), torch.tensor([0, 1]), torch.zeros(8), 0.5)
    patches: list[Patch] = [
        NoPatch(),
        WeightPatch(
            {
                "a.weight": torch.ones(4, 4),
                "b.weight.left": torch.ones(4, 1),
                "b.weight.right": torch.ones(1, 4),
            }
        ),
        KnowledgeBlockPatch(names, table, (1,), "last", "exact"),
        KnowledgeBlockPatch(names, table, (1,), "all", "fuzzy", "last", gate),
        FactsInFront([FactText("p", "t", (0,), "s")], ["d"], Lookup("tfidf", "", 1, 0.0, "i")),
        CodebookPatch(1, torch.ones(2, 4), torch.ones(2, 8), torch.ones(2), ("a", "b")),
        SideMemoryPatch(1, torch.ones(2, 4, 8), torch.ones(2), "mean"),
        SeracPatch(
            [[1, 2], [3]], torch.ones(2, 4), encoder.make(), encoder, Counterfactual(model), 0.5, ("a", "b")
        ),
    ]
    for number, patch in enumerate(patches):
        patch.save(folder / str(number))
    return [folder / str(number) for number in range(len(patches))]


def other_header(rng: random.Random, content: bytes) -> bytes:
    """The same tensors under a header that says something else of them: type, shape, place, name."""
    (length,) = struct.unpack("<Q", content[:8])
    header = mutations.json_of(rng, json.loads(content[8 : 8 + length]))
    said = (
        len(header) if rng.random() < 0.8 else rng.choice((0, 2**63, 2**64 - 1, 100_000_001, len(header) + 1))
    )
    return struct.pack("<Q", said) + header + content[8 + length :]
