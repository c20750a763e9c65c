"""A small hand-made store of which every number can be worked out by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lks.edits import Context, ProbeKind
from lks.results.ability_rows import AbilityRow
from lks.results.answers import Answer
from lks.results.cells import ABILITY, ANSWERS, DECISIONS, GENERATIONS, IMMEDIATE, Cell, Costs, Outcome
from lks.results.decisions import Decision
from lks.results.rows import Generation
from lks.results.shards import write_outcome, write_shard, write_stage
from lks.results.store import Store

NAMES = ("Ann", "Bob", "Cleo", "Dan")
ASKED: tuple[ProbeKind, ...] = ("edit", "paraphrase", "locality")
CHOICES = '[["first", [-1.0, true]], ["second", [-2.0, false]]]'
NONE: dict[str, Sequence[object]] = {}
SETTINGS = '{"batch_size": 16, "block": 16, "hypernetwork": "linear", "lambda_edit": 10.0, "lr": 0.0001, "max_epochs": 20}'
ORIGIN = {"device": "one hand", "finished": "2026-01-01T00:00:00"}
Wrong = dict[str, int]
Stages = Mapping[str, Sequence[object]]


def write_answers(results: Path, cell_id: str, stage: str, answers: Sequence[Answer]) -> str:
    """Write a shard of answers for a stage of any name; see `write_stage`."""
    relative = f"cells/{cell_id}/{stage}.parquet"
    write_shard(results / relative, cell_id, answers)
    return relative


def answer(
    draw: int, subject: str, kind: ProbeKind, right: bool, stratum: str = "", context: Context = "bare"
) -> Answer:
    """An answer of two tokens; a wrong one has the first token right under teacher forcing and none when
    generated.
    """
    given = (1, 2) if right else (1, 0)
    said = given if right else (0, 0)
    text = "wanted" if right else "other"
    case, prompt = f"{subject}-{draw}", f"{kind} <b>{subject}</b>"
    return Answer(
        *(
            draw,
            case,
            subject,
            kind,
            0,
            prompt,
            "wanted",
            (1, 2),
            given,
            said,
            "text & more" if right else "less",
            -1.0,
        ),
        context=context,
        stratum=stratum,
        wild_text=text,
    )


def answers_of(
    cell: Cell, wrong: Wrong, ported: tuple[str, ...] = (), known: tuple[str, ...] = ()
) -> list[Answer]:
    """Answers of which the first so many subjects' of a kind are wrong in every draw.

    Args:
        cell: whose.
        wrong: kind -> number of subjects.
        ported: subjects whose portability question is answered right; all subjects have one if there are any
            such or known ones.
        known: subjects whose portability question is answered right when the edited fact is given.
    """
    made = [
        answer(d, name, kind, i >= wrong.get(kind, 0))
        for d in range(cell.draws)
        for i, name in enumerate(NAMES)
        for kind in ASKED
    ]
    if not (ported or known):
        return made
    strata = {name: "alias" if i < 2 else "reasoning" for i, name in enumerate(NAMES)}
    made += [answer(0, name, "portability", name in ported, strata[name]) for name in NAMES]
    return made + [
        answer(0, name, "portability", name in known, strata[name], "given") for name in NAMES if known
    ]


def put(
    store: Store,
    cell: Cell,
    title: str,
    answers: list[Answer],
    immediate: list[Answer] | None = None,
    stages: Stages = NONE,
) -> None:
    """Record a cell that has a result; with immediate answers one of a sequential method."""
    shards = [write_answers(store.results, cell.id, ANSWERS, answers)] if answers else []
    if immediate is not None:
        shards.append(write_answers(store.results, cell.id, IMMEDIATE, immediate))
    shards += [write_stage(store.results, cell.id, stage, rows) for stage, rows in stages.items()]
    costs = Costs(
        1.0,
        2.0 * cell.draws * cell.n_edits,
        3.0,
        400_000_000,
        64_000_000,
        {"ability-piqa": 5.0} if f"{ABILITY}-piqa" in stages else {},
    )
    regime = "simultaneous" if immediate is None else "sequential"
    write_outcome(
        store.results,
        Outcome(cell, "ok", "", tuple(shards), costs, {"title": title, "regime": regime, **ORIGIN}),
    )


def fail(store: Store, cell: Cell, title: str, status: str, reason: str) -> None:
    """Record a cell without a result."""
    write_outcome(
        store.results,
        Outcome(cell, status, reason, (), Costs(), {"title": title, "regime": "simultaneous", **ORIGIN}),
    )  # type: ignore[arg-type]


def fill(store: Store) -> None:
    """Cells of every kind and fate, on disk: the catalogue takes them in when it is next read."""
    world = ("micro-llama", "world")
    for n_edits, draws in ((1, 2), (100, 1)):
        cell, edited = (
            Cell(*world, "none", n_edits, 0, draws),
            Cell(*world, "lks", n_edits, 0, draws, parameters=SETTINGS),
        )
        many = n_edits == 100
        unedited = answers_of(cell, {"edit": 4, "paraphrase": 4}, known=NAMES[:3] if many else ())
        put(store, cell, "unedited", unedited, stages=_measured("x y z w", "x y z w", 4) if many else {})
        ported = ("Ann", "Dan") if many else ()
        more = {**_measured("a b c d", "a | a a a", 3), DECISIONS: _decided()} if many else {}
        put(
            store,
            edited,
            "LKS",
            answers_of(edited, {"edit": 1 if many else 0, "paraphrase": 1, "locality": 2}, ported),
            stages=more,
        )
    put(
        store, Cell(*world, "ft", 1, 0, 2), "FT-M", answers_of(Cell(*world, "ft", 1, 0, 2), {"paraphrase": 2})
    )
    fail(store, Cell(*world, "ft", 100, 0, 1), "FT-M", "diverged", "loss is NaN at step 12 <draw 0>")
    fail(
        store,
        Cell(*world, "lks", 100, 0, 1, (("hypernetwork", "free"),), '{"hypernetwork": "free"}'),
        "LKS",
        "oom",
        "out of memory",
    )
    grace = Cell(*world, "grace", 100, 0, 1)
    put(store, grace, "GRACE", answers_of(grace, {"edit": 2, "locality": 2}), answers_of(grace, {"edit": 1}))
    paper = Cell("llama-2-7b-chat", "zsre", "lks", 1000, 0, 1, parameters=SETTINGS, records=1000)
    put(store, paper, "LKS", answers_of(paper, {"edit": 1}))
    survey = Cell("llama-2-7b-chat", "knowedit-zsre", "rome", 1, 0, 2)
    put(store, survey, "ROME", answers_of(survey, {"edit": 2}))
    rules = Cell(
        "mini", "counterfact", "lks", 100, 0, 1, (), '{"scope": "official", "gate": "none"}', measure="scope"
    )
    outside = [Decision(0, "others", i, f"other-{i}", ("Ann",) if i == 0 else (), "") for i in range(4)]
    put(store, rules, "LKS", [], stages={DECISIONS: outside})
    for method, title in (("none", "unedited"), ("ft", "FT-M")):
        cell = Cell(
            *world, method, 10, 0, 1, (("lr", "0.125"),) if method == "ft" else (), split="development"
        )
        put(store, cell, title, answers_of(cell, {"edit": 3}))


def _measured(ann: str, bob: str, right: int) -> Stages:
    """Two texts behind edit prompts, and four documents of a test with two choices of which so many are
    right.
    """
    texts = [
        Generation(0, "edit", i, name, f"edit <b>{name}</b>", text, 4)
        for i, (name, text) in enumerate((("Ann", ann), ("Bob", bob)))
    ]
    documents = [
        AbilityRow(0, "piqa", "acc", i, float(i < right), "first", "first", CHOICES) for i in range(4)
    ]
    return {GENERATIONS: texts, f"{ABILITY}-piqa": documents}


def _decided() -> list[Decision]:
    """Of four edit prompts one is taken for another subject's; of two prompts about others the edits act on
    one.
    """
    own = [
        Decision(0, "edit", i, f"{name}-0", ("Bob" if name == "Ann" else name,), name)
        for i, name in enumerate(NAMES)
    ]
    return [*own, *(Decision(0, "others", i, f"other-{i}", ("Ann",) if i == 0 else (), "") for i in range(2))]
