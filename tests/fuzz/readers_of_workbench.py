"""Readers that `tests.fuzz` tries on what engineers and their clients hand in: facts, patch folders, written
prompts, requests.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.good_records import RECORD
from tests.fuzz.readers_of_folders import Reader
from tests.helpers import mutations

FACT = {
    "subject": "Anna Toll",
    "prompt": "Anna Toll was born in",
    "target": "Rome",
    "id": "a",
    "ground_truth": "Oslo",
    "aliases": ["A. Toll"],
    "paraphrases": ["Where was Anna Toll born?"],
    "locality": [{"prompt": "The job of Anna Toll is", "answer": "baker"}],
    "training_paraphrases": ["The birthplace of Anna Toll is"],
    "training_locality": ["Anna Toll plays the"],
}
TRIPLE = {"subject": "Bo", "relation": "born", "object": "Oslo"}
TABLE = b"subject,prompt,target,aliases,locality\nAnna Toll,Anna Toll was born in,Rome,A. Toll|Toll,Anna Toll plays the => flute\n"
WORDINGS = b'born = "{} was born in"\n[job]\nprompt = "The job of {} is"\nparaphrases = ["{} works as"]\n'
ORIGIN = {
    "format": 1,
    "method": "lks",
    "title": "LKS",
    "parameters": {"block": 2},
    "changed": {},
    "tuned": "preset",
    "base": {"name": "micro-llama", "revision": "0" * 16, "blocks": 6, "dim": 160, "vocabulary": 1399},
    "seed": 0,
    "seconds": 1.5,
    "prepare_s": 0.0,
    "made": {"python": "3.11"},
    "history": ["edited"],
    "training": "",
}
WRITTEN = {
    "subject": "Anna Toll",
    "prompt": "Anna Toll was born in",
    "target": "Rome",
    "rephrase_prompt": "The birthplace is",
    "locality": ["a", "b"],
}
COMPLETION = {
    "model": "a",
    "prompt": ["x", "y"],
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": ["."],
    "n": 2,
    "seed": 1,
    "stream": True,
}
CHAT = {
    "model": "a",
    "messages": [
        {"role": "user", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "y"}]},
    ],
    "stream_options": {"include_usage": True},
}


def _lines(rng: random.Random, *good: object) -> bytes:
    return b"\n".join(
        mutations.json_of(rng, one) if rng.random() < 0.5 else json.dumps(one).encode() for one in good
    )


def facts(folder: Path) -> Reader:
    """`lks.data.user_facts.read_facts` on damaged lines, tables, triples and templates; what is read becomes
    a dataset.
    """
    from lks.data.user_facts import read_facts

    def read(rng: random.Random) -> None:
        wording = folder / "wording.toml"
        wording.write_bytes(mutations.bytes_of(rng, WORDINGS, WORDINGS) if rng.random() < 0.5 else WORDINGS)
        kinds: dict[str, Callable[[], bytes]] = {
            "facts.jsonl": lambda: _lines(
                rng, FACT, FACT | {"id": "b", "prompt": "Anna Toll lives in"}, TRIPLE
            ),
            "facts.csv": lambda: mutations.bytes_of(rng, TABLE, WORDINGS),
            "facts.txt": lambda: mutations.bytes_of(rng, b"Bo | born | Oslo\nEva | job | baker\n", TABLE),
        }
        name = rng.choice(list(kinds))
        (folder / name).write_bytes(kinds[name]())
        found = read_facts(folder / name, wording if name == "facts.txt" or rng.random() < 0.3 else None)
        cases = found.dataset().cases
        assert len(cases) == len(found.facts) and all(case.edit.subject in case.edit.prompt for case in cases)

    return read


def edits(folder: Path) -> Reader:
    """`workbench.patch_folder.read` on a patch folder with a damaged record, damaged facts or damaged weights
    of a hypernetwork.
    """
    from tests.helpers import patches_made
    from workbench.patch_folder import read as tried

    made = patches_made.made(folder / "good")[0]

    def read(rng: random.Random) -> None:
        what = rng.randrange(3)
        (made / "edit.json").write_bytes(
            mutations.json_of(rng, ORIGIN) if what == 0 else json.dumps(ORIGIN).encode()
        )
        (made / "facts.jsonl").write_bytes(_lines(rng, FACT) if what == 1 else json.dumps(FACT).encode())
        whole = (made / "patch.safetensors").read_bytes()
        (made / "training.safetensors").write_bytes(
            mutations.bytes_of(rng, whole, whole) if what == 2 else whole
        )
        assert tried(made).origin is not None

    return read


def written(folder: Path) -> Reader:
    """`lks.data.generated_prompts.GeneratedSource` on a damaged training file."""
    from lks.data.generated_prompts import GeneratedSource
    from lks.data.template_prompts import Record

    texts = {**RECORD, "locality": "The capital of Peru is", "locality_answer": "Lima"}
    record = Record("0", **texts)  # type: ignore[arg-type]

    def read(rng: random.Random) -> None:
        file = folder / "training.jsonl"
        file.write_bytes(_lines(rng, WRITTEN, WRITTEN))
        assert all(
            isinstance(text, str) for text in GeneratedSource(file, [record]).prompts(record).paraphrases
        )

    return read


def requests(folder: Path) -> Reader:
    """The body of a request to `lks serve`, as the server takes it: a request, or a refusal with a status and
    a reason.
    """
    from lks.errors import UserError
    from workbench.serving.protocol import ChatRequest, Completion, Refusal, understood

    def read(rng: random.Random) -> None:
        kind, good = rng.choice(((Completion, COMPLETION), (ChatRequest, CHAT)))
        try:
            document = json.loads(mutations.json_of(rng, good))
        except (ValueError, RecursionError):
            raise UserError("no JSON: the server refuses it before") from None
        try:
            understood(kind, document)
        except Refusal as refusal:
            raise UserError(str(refusal)) from None

    return read
