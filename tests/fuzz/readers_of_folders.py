"""Readers that `tests.fuzz` tries on whole results folders."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from lks.results.cells import PROTOCOL
from tests.helpers import mutations, stores

Reader = Callable[[random.Random], None]


def good_results(folder: Path) -> Path:
    """The store of `tests.helpers.stores`, as files."""
    from lks.results.store import Store

    store = Store(folder / "good")
    stores.fill(store)
    return store.results


def _damaged_store(folder: Path) -> Callable[[random.Random], Path]:
    """A copy of the good store in which a few files are damaged, swapped, gone or something else.

    Its catalogue mirrors what was there before, or is empty, which costs less than none, or is not there.
    """
    import shutil

    from lks.results.store import Store
    from tests.fuzz import parquet_mutations

    good = good_results(folder)
    Store(folder / "empty").sync()
    Store(good).sync()
    full = folder / "full.duckdb"
    (good / "lks.duckdb").rename(full)
    catalogues = (folder / "empty" / "lks.duckdb", full, None)

    def damage(rng: random.Random) -> Path:
        bad = folder / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        (catalogue,) = rng.choices(catalogues, (10, 9, 1))
        if catalogue:
            shutil.copyfile(catalogue, bad / "lks.duckdb")
        files = sorted(bad.glob("cells/*/*"))
        for file in rng.sample(files, rng.choice((1, 2, 5))):
            other = rng.choice([one for one in files if one.suffix == file.suffix and one.is_file()])
            what = rng.randrange(6)
            if what == 0:
                file.write_bytes(other.read_bytes())
            elif what == 1:
                file.unlink()
                rng.choice((file.mkdir, lambda at=file, to=other: at.symlink_to(to), lambda: None))()
            elif file.suffix == ".json":
                file.write_bytes(
                    mutations.json_of(rng, json.loads(file.read_bytes()))
                    if file.read_bytes()[:1] == b"{"
                    else b""
                )
            else:
                file.write_bytes(parquet_mutations.damaged(rng, file.read_bytes(), other.read_bytes()))
        if rng.random() < 0.1:
            (bad / "protocol.json").write_bytes(mutations.json_of(rng, {"protocol": PROTOCOL}))
        return bad

    return damage


def store(folder: Path) -> Reader:
    """Taking a damaged results folder in, and asking for outcomes and scores."""
    from lks.results.store import Store

    damage = _damaged_store(folder)

    def read(rng: random.Random) -> None:
        held = Store(damage(rng))
        assert all(warning and "\n" not in warning for warning in held.sync())
        assert isinstance(held.outcomes(), list) and isinstance(held.query("SELECT * FROM metrics"), list)

    return read


def report(folder: Path) -> Reader:
    """The report of a damaged results folder; of the three formats of a figure the one that the page shows."""
    import reports

    reports.KINDS = ("svg",)
    damage = _damaged_store(folder)

    def read(rng: random.Random) -> None:
        assert reports.render(damage(rng)).page.is_file()

    return read
