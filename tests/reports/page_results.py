"""A small results folder for the page's tests: answers worked by hand, with markup in the prompts."""

from dataclasses import replace
from pathlib import Path

from lks.edits import ProbeKind
from lks.results.answers import Answer
from lks.results.cells import Cell, Costs, Outcome
from lks.results.store import Store
from tests.helpers.stores import write_answers

NAMES = ("Ann", "Bob", "Cleo", "Dan")
KINDS: tuple[ProbeKind, ...] = ("edit", "paraphrase", "locality")
DEVICE = "abacus, 2 beads"


def answer(draw: int, subject: str, kind: ProbeKind, right: bool) -> Answer:
    """An answer of two tokens; a wrong one has the first token right under teacher forcing and none when
    generated.
    """
    prompt = f"{kind} <b>{subject}</b> </script> & more"
    given = (1, 2) if right else (1, 0)
    made = Answer(
        draw,
        f"{subject}-{draw}",
        subject,
        kind,
        0,
        prompt,
        "wanted",
        (1, 2),
        given,
        given if right else (0, 0),
        "wanted" if right else "<i>odd</i>",
        -1.0,
    )
    return replace(
        made, wild_text="wanted. Yes" if right else "stone", fired=right if kind == "edit" else None
    )


def put(
    store: Store, cell: Cell, title: str, wrong: dict[str, int], status: str = "ok", reason: str = ""
) -> None:
    """Record a cell in which the answers of a kind are wrong for so many subjects."""
    shards: tuple[str, ...] = ()
    if status == "ok":
        given = [
            answer(d, name, kind, i >= wrong.get(kind, 0))
            for d in range(cell.draws)
            for i, name in enumerate(NAMES)
            for kind in KINDS
        ]
        shards = (write_answers(store.results, cell.id, "answers", given),)
    costs = (
        Costs(1.0, 2.0 * cell.draws * cell.n_edits, 3.0, 400_000_000, 64_000_000)
        if status == "ok"
        else Costs()
    )
    provenance = {
        "title": title,
        "regime": "simultaneous",
        "device": DEVICE,
        "finished": "2026-01-01T00:00:00",
    }
    store.record(Outcome(cell, status, reason, shards, costs, provenance))  # type: ignore[arg-type]


def fill(folder: Path) -> Path:
    """A results folder with cells of two models, failed and development ones among them."""
    store = Store(folder / "results")
    for n_edits, draws in ((1, 2), (100, 1)):
        put(
            store,
            Cell("micro-llama", "world", "none", n_edits, 0, draws),
            "Unedited",
            {"edit": 4, "paraphrase": 4},
        )
        put(
            store,
            Cell("micro-llama", "world", "lks", n_edits, 0, draws, parameters='{"blocks": [3]}'),
            "LKS",
            {"paraphrase": 1, "locality": 2},
        )
    put(store, Cell("micro-llama", "world", "ft", 1, 0, 2), "FT-M", {"paraphrase": 2})
    put(store, Cell("micro-llama", "world", "rome", 100, 0, 1), "ROME", {"edit": 3, "paraphrase": 3})
    put(
        store,
        Cell("micro-llama", "world", "ft", 100, 0, 1),
        "FT-M",
        {},
        "diverged",
        "loss is NaN at step 12 <draw 0>",
    )
    put(
        store,
        Cell("llama-2-7b-chat", "zsre", "none", 1000, 0, 1, records=1000),
        "Unedited",
        {"edit": 4, "paraphrase": 4},
    )
    put(store, Cell("llama-2-7b-chat", "zsre", "lks", 1000, 0, 1, records=1000), "LKS", {"edit": 1})
    for method, title in (("none", "Unedited"), ("ft", "FT-M")):
        variant = (("lr", "0.125"),) if method == "ft" else ()
        put(
            store,
            Cell("micro-llama", "world", method, 10, 0, 1, variant, split="development"),
            title,
            {"edit": 3},
        )
    return store.results
