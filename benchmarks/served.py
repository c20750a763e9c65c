"""A server in a thread, and small patches whose answers tell them apart."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from lks.data.datasets import load
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from workbench.serving.server import GracefulServer
from workbench.serving.service import ModelService, Rules

BLOCK = 1


def questions(count: int = 60) -> list[tuple[str, str]]:
    """Return (subject, prompt) of the synthetic world, whose answers `micro-llama` knows."""
    return [(case.edit.subject, case.edit.prompt) for case in load("world").cases[:count]]


def patches(lm: LM, asked: Sequence[tuple[str, str]]) -> dict[str, Patch]:
    """Make two patches that take the same subjects for others, each for somebody else; a patch of weights;
    and one of the unedited model.
    """
    subjects = list(dict.fromkeys(subject for subject, _ in asked))
    ids, mask = lm.pad([encoded.ids for encoded in lm.encode(subjects, [""] * len(subjects))], "left")
    seen: list[torch.Tensor] = []
    handle = lm.block(BLOCK).register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        lm.model(input_ids=ids, attention_mask=mask)
    handle.remove()
    own = seen[0][:, -1]
    name = lm.parameter_name(lm.mlp_output(2))
    weight = dict(lm.model.named_parameters())[name]
    left = torch.randn(weight.shape[0], 8, generator=torch.Generator().manual_seed(3))
    change = {
        f"{name}.left": left,
        f"{name}.right": torch.randn(8, weight.shape[1], generator=torch.Generator().manual_seed(4)) * 0.3,
    }
    made = {
        key: KnowledgeBlockPatch([[s] for s in subjects], own.roll(by, 0)[None], (BLOCK,), "last", "exact")
        for key, by in (("a", 7), ("b", 13))
    }
    return {"base": NoPatch(), **made, "w": WeightPatch(change)}


def answers(lm: LM, patch: Patch, prompts: Sequence[str], count: int) -> list[str]:
    """Return what the model inside `patch.applied` answers to each prompt alone."""
    ends = {lm.tokenizer.eos_token_id}
    texts = []
    with patch.applied(lm):
        for prompt in prompts:
            ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
            new = lm.greedy(ids, torch.ones_like(ids), count)[0, ids.shape[1] :].tolist()
            texts.append(
                lm.pieces.text(new[: next((i for i, token in enumerate(new) if token in ends), len(new))])
            )
    return texts


@contextmanager
def serving(lm: LM, made: Mapping[str, Patch], rules: Rules, grace: float = 10.0) -> Iterator[GracefulServer]:
    """Run a server at a free port; it is ended on leaving, as SIGTERM would."""
    listening = threading.Event()
    server = GracefulServer(
        ModelService(lm, made, rules), "127.0.0.1", 0, grace, lambda address: listening.set()
    )
    thread = threading.Thread(target=server.run_with_engine, daemon=True)
    thread.start()
    try:
        assert listening.wait(60), "the server did not listen within a minute"
        yield server
    finally:
        server.begin_end()
        thread.join(60)
        assert not thread.is_alive(), "the server did not end within a minute"
