"""The readers that `tests.fuzz` tries: each makes good files once, then damages one and reads it."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.good_records import EDIT, FILES, GRID, LABELLED
from tests.fuzz.readers_of_folders import Reader, good_results, report, store
from tests.fuzz.readers_of_workbench import edits, facts, requests, written
from tests.helpers import mutations
from tests.helpers.root import ROOT

BATCH = 50
"""Texts of one query: reading the first costs a third of a second, whatever their number."""
FEWER = {"wild": BATCH, "report": 20}
"""Readers that get so many times fewer inputs: they take so many times longer, or an input is so many texts.
"""
PATIENCE = {"report": 300.0, "hangs": 2.0}
"""Seconds for one input, where it is not the usual."""


def shards(folder: Path) -> Reader:
    """`read_checked`, `read_answers` and `read_rows` on a damaged shard."""
    from lks.results import shards as tried
    from lks.results.ability_rows import AbilityRow
    from lks.results.rows import Generation
    from tests.fuzz import parquet_mutations

    good = sorted(good_results(folder).glob("cells/*/*.parquet"))
    small = list({(file.stem, file.stat().st_size): file for file in good}.values())

    def read(rng: random.Random) -> None:
        chosen, other = rng.choice(small), rng.choice(small)
        file = folder / "x" / chosen.name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(parquet_mutations.damaged(rng, chosen.read_bytes(), other.read_bytes()))
        kinds = {"ability": AbilityRow, "generations": Generation}
        kind = kinds.get(chosen.stem.partition("-")[0])
        readers: list[Callable[[], object]] = [
            lambda: tried.read_checked(file, rng.choice(("", chosen.parent.name)))
        ]
        readers.append(lambda: tried.read_rows(file, kind) if kind else tried.read_answers(file))
        _each(readers)

    return read


def _each(readers: list[Callable[[], object]]) -> None:
    """All of them, whatever they say; the first clear error is raised at the end."""
    from lks.errors import UserError

    said: UserError | None = None
    for reader in readers:
        try:
            reader()
        except UserError as error:
            said = said or error
    if said:
        raise said


def outcomes(folder: Path) -> Reader:
    """`read_outcome` and `parse_outcome` on a damaged `outcome.json`."""
    from lks.results.shards import parse_outcome, read_outcome

    good = [
        json.loads(file.read_bytes()) for file in sorted(good_results(folder).glob("cells/*/outcome.json"))
    ]
    ids = [file.parent.name for file in sorted((folder / "good").glob("cells/*/outcome.json"))]

    def read(rng: random.Random) -> None:
        number = rng.randrange(len(good))
        file = folder / "bad" / "cells" / ids[number] / "outcome.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mutations.json_of(rng, good[number]))
        outcome = read_outcome(folder / "bad", ids[number])
        assert all(
            (folder / "bad" / shard).resolve().is_relative_to(file.parent.resolve())
            for shard in outcome.shards
        )
        assert parse_outcome(json.dumps(json.loads(file.read_bytes()))).cell.id == ids[number]

    return read


def patches(folder: Path) -> Reader:
    """`lks.editing.patch.load` on damaged patches of every kind."""
    import lks.editing.patch
    from tests.helpers import patches_made

    good = [
        (json.loads((made / "patch.json").read_text()), (made / "patch.safetensors").read_bytes())
        for made in patches_made.made(folder / "good")
    ]

    def read(rng: random.Random) -> None:
        (document, tensors), other = rng.choice(good), rng.choice(good)[1]
        bad = folder / "bad"
        bad.mkdir(exist_ok=True)
        what = rng.randrange(4)
        content = mutations.json_of(rng, document) if what in (0, 3) else json.dumps(document).encode()
        (bad / "patch.json").write_bytes(content)
        changed = {
            0: tensors,
            1: mutations.bytes_of(rng, tensors, other),
            2: patches_made.other_header(rng, tensors),
            3: other,
        }[what]
        (bad / "patch.safetensors").write_bytes(changed)
        lks.editing.patch.load(bad)

    return read


def grids(folder: Path) -> Reader:
    """`lks.runs.grid.grids`, and what a grid says of itself, on a damaged file of grids."""
    from lks.runs.grid import grids as tried

    shipped = (ROOT / "flows" / "grids.toml").read_bytes()

    def read(rng: random.Random) -> None:
        file = folder / "grids.toml"
        if rng.random() < 0.02:
            file.write_bytes(b"[a]\nmodels = " + b"[" * rng.choice((200, 5000, 100_000)))
        elif rng.random() < 0.4:
            file.write_bytes(mutations.bytes_of(rng, shipped, shipped))
        else:
            changed = mutations.changed(rng, {"a": GRID, "b": GRID})
            lines = (
                [f"{json.dumps(k)} = {mutations.toml(v)}" for k, v in changed.items()]
                if isinstance(changed, dict)
                else [mutations.toml(changed)]
            )
            file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
        for grid in tried(file).values():
            assert grid.entries(("lks",)) is not None and grid.pairs() is not None and grid.extras is not None

    return read


def datasets(folder: Path) -> Reader:
    """`lks.data.datasets.load` on damaged files of every form, and other spellings of answers."""
    from lks.data import datasets as tried
    from lks.data.knowedit_format import FILES as KNOWEDIT_FILES

    places = {name: folder / {**KNOWEDIT_FILES, **tried.KNOWN, **tried.DATASETS}[name].file for name in FILES}  # type: ignore[union-attr]
    aliases = folder / "entity_aliases" / "aliases.json"
    for file in (*places.values(), aliases):
        file.parent.mkdir(parents=True, exist_ok=True)

    def read(rng: random.Random) -> None:
        name = rng.choice(list(FILES))
        spelt = {"Rome": ["Roma", "Urbs"], "Oslo": ["Christiania"]}
        damages_aliases = rng.random() < 0.15
        places[name].write_bytes(
            json.dumps(FILES[name]).encode() if damages_aliases else mutations.json_of(rng, FILES[name])
        )
        aliases.write_bytes(mutations.json_of(rng, spelt) if damages_aliases else json.dumps(spelt).encode())
        dataset = tried.load(name, folder)
        assert all(
            isinstance(probe.prompt, str) and isinstance(probe.answer, str)
            for case in dataset.cases
            for probe in case.probes
        )

    return read


def lines(folder: Path) -> Reader:
    """Files of JSON lines: edits for scope checks, labelled answers, an LLM judge's replies."""
    from lks.evaluation.scope_prompts import read_edits
    from lks.llm.judge_calibration import labelled_items
    from lks.results.judge_rows import Replies, file_name

    reply = {"key": "0" * 64, "prompt": "p", "reply": "correct"}

    def read(rng: random.Random) -> None:
        what = rng.randrange(3)
        line = (EDIT, LABELLED, reply)[what]
        content = b"\n".join(
            mutations.json_of(rng, line) if rng.random() < 0.5 else json.dumps(line).encode()
            for _ in range(3)
        )
        file = folder / (f"{file_name('judge')}.jsonl" if what == 2 else "lines.jsonl")
        file.write_bytes(content)
        if what == 2:
            assert "p" not in Replies(folder, "judge", "x")
        else:
            (read_edits if what == 0 else labelled_items)(file)

    return read


def wild(folder: Path) -> Reader:
    """The macros that read free answers, on any text. They have no error to give: every text has a result."""
    import duckdb

    import lks.results.shards

    connection = duckdb.connect()
    for statement in duckdb.extract_statements(
        (Path(lks.results.shards.__file__).parent / "wild.sql").read_text(encoding="utf-8")
    ):
        connection.execute(statement)
    columns = "spelt(said(a)), wild_right(a, b, c), wild_holds(a, b, c), error_class(a, b, c, d)"
    asked = f"SELECT {columns} FROM (SELECT unnest(?) AS a, unnest(?) AS b, unnest(?::VARCHAR[][]) AS c, unnest(?) AS d)"

    def text(rng: random.Random) -> str:
        return mutations.text_of(rng).encode("utf-8", "ignore").decode()

    def read(rng: random.Random) -> None:
        rows = []
        for _ in range(BATCH):
            said, answer, *accepted, old = (text(rng) for _ in range(5))
            rows.append(
                (
                    rng.choice((said, f"{answer}{said}", f"{said} {answer}", answer, old)),
                    answer,
                    accepted,
                    old,
                )
            )
        found = connection.execute(asked, [list(column) for column in zip(*rows, strict=True)]).fetchall()
        assert len(found) == BATCH
        assert all(
            right in (0, 1) and holds in (0, 1) and (error is None) == (right == 1) and holds >= right
            for _, right, holds, error in found
        )

    return read


def only(folder: Path) -> Reader:
    """`--only`, and the advice on unknown names."""
    from lks.errors import unknown
    from lks.runs.plan import parse_only

    def read(rng: random.Random) -> None:
        good = "method=lks,model=micro-llama,n_edits=100"
        text = rng.choice(
            (
                mutations.text_of(rng),
                good.replace(rng.choice("=,almn"), mutations.text_of(rng)),
                good[: rng.randrange(len(good))],
            )
        )
        found = parse_only(text)
        assert all(key and all(values) for key, values in found.items())
        for values in found.values():
            assert str(unknown("method", values[0], ("lks", "memit")))

    return read


READERS: dict[str, Callable[[Path], Reader]] = {
    reader.__name__: reader
    for reader in (
        shards,
        outcomes,
        patches,
        grids,
        datasets,
        lines,
        wild,
        only,
        facts,
        edits,
        written,
        requests,
        store,
        report,
    )
}


def _raises(folder: Path) -> Reader:
    """Stumbles over every input."""
    return lambda rng: [][rng.randrange(9)]


def _ends(folder: Path) -> Reader:
    """Takes the process down at some inputs."""
    import os

    return lambda rng: os.abort() if rng.random() < 0.5 else None


def _hangs(folder: Path) -> Reader:
    """Never comes back from some inputs."""
    import threading

    return lambda rng: None if rng.random() < 0.5 else threading.Event().wait(600) and None


def _grows(folder: Path) -> Reader:
    """Takes more than a gigabyte."""
    return lambda rng: bytearray(b"x") * (1200 << 20) and None


STUMBLES: dict[str, Callable[[Path], Reader]] = {
    "raises": _raises,
    "ends": _ends,
    "hangs": _hangs,
    "grows": _grows,
}
"""Readers with faults, that show that faults are found."""
