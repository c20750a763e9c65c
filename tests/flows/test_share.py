"""Cells passed on by a place with an URL: what is taken and sent, what damage and silence do, and machines
that share nothing else.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flows.running.cell_runner import BEAT_EVERY_S, CellRunner, heartbeat
from flows.running.planning import share_in_use
from flows.running.pool import PoolRunner
from flows.running.time_estimate import DurationEstimator
from lks.errors import StoreError, UserError
from lks.results.cells import ANSWERS, Cell, Costs, Measurements, Outcome
from lks.results.remote import RemoteStore
from lks.results.shards import check_cell, read_outcome, write_outcome, write_stage
from lks.results.store import Store
from tests.flows.fake_pool import Notes, Server
from tests.helpers import fakes, stores

CELL, OTHER = Cell("m", "world", "ft", 1, 0, 1), Cell("m", "world", "none", 1, 0, 1)
ROWS = stores.answers_of(CELL, {})


class Moody(MemoryFileSystem):  # type: ignore[misc]
    """A place in memory that does not answer so many times, or refuses."""

    protocol = "moody"
    store: dict[str, object] = {}  # noqa: RUF012  as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    away = 0
    refuses = False
    calls: list[str] = []  # noqa: RUF012

    def _mood(self, what: str) -> None:
        type(self).calls.append(what)
        if self.refuses:
            raise PermissionError("no key")
        if self.away:
            type(self).away -= 1
            raise ConnectionError("try later")

    def find(self, *args, **kwargs):
        self._mood("find")
        return super().find(*args, **kwargs)

    def info(self, path, **kwargs):
        self._mood(f"info {path}")
        return super().info(path, **kwargs)

    def pipe_file(self, path, value, **kwargs):
        self._mood(f"put {path}")
        return super().pipe_file(path, value, **kwargs)


fsspec.register_implementation("moody", Moody)


@pytest.fixture(params=["moody", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield "moody://bucket/some/where" if request.param == "moody" else f"file://{tmp_path}/sha re"
    Moody.store.clear()


@pytest.fixture
def moody() -> Iterator[type[Moody]]:
    Moody.away, Moody.refuses = 0, False
    Moody.calls.clear()
    yield Moody
    Moody.store.clear()
    Moody.away, Moody.refuses = 0, False


def store(
    results: Path, cell: Cell = CELL, status: str = "ok", stages: tuple[str, ...] = (ANSWERS,), note: str = ""
) -> Outcome:
    Store(results)
    shards = tuple(write_stage(results, cell.id, stage, ROWS if stage == ANSWERS else []) for stage in stages)
    outcome = Outcome(
        cell,
        status,
        "" if status == "ok" else "why",
        shards if status == "ok" else (),
        Costs(),
        {"note": note},
    )  # type: ignore[arg-type]
    write_outcome(results, outcome)
    return outcome


def same(one: Path, other: Path, cell: Cell = CELL) -> bool:
    outcome = read_outcome(other, cell.id)
    check_cell(other, outcome)
    return read_outcome(one, cell.id) == outcome and all(
        (one / s).read_bytes() == (other / s).read_bytes() for s in outcome.shards
    )


def test_a_cell_goes_from_folder_to_folder(url, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    store(a)
    assert not RemoteStore(url).take(b, CELL.id) and not (b / "cells").exists()
    assert RemoteStore(url).exchange(a) == (0, 1)
    assert RemoteStore(url).exchange(b) == (1, 0)
    assert same(a, b)
    assert RemoteStore(url).exchange(a) == RemoteStore(url).exchange(b) == (0, 0)
    assert [path.name for path in (b / "runs").iterdir()] == [], "what was checked is cleared away"


def test_only_the_named_cells_are_carried(url, tmp_path):
    store(tmp_path / "a")
    store(tmp_path / "a", OTHER)
    assert RemoteStore(url).exchange(tmp_path / "a", [OTHER.id]) == (0, 1)
    assert RemoteStore(url).exchange(tmp_path / "b", [CELL.id]) == (0, 0)
    assert RemoteStore(url).exchange(tmp_path / "b", [CELL.id, OTHER.id]) == (1, 0)
    assert RemoteStore(url).exchange(tmp_path / "a", sending=False) == (0, 0)


@pytest.mark.parametrize(
    ("here", "there", "moved"),
    [
        (("ok", (ANSWERS,)), ("oom", ()), (0, 1)),
        (("oom", ()), ("ok", (ANSWERS,)), (1, 0)),
        (("ok", (ANSWERS,)), ("ok", (ANSWERS, "passages")), (1, 0)),
        (("ok", (ANSWERS, "passages")), ("ok", (ANSWERS,)), (0, 1)),
        (("ok", (ANSWERS, "passages")), ("ok", (ANSWERS, "generations")), (0, 0)),
        (("oom", ()), ("timeout", ()), (0, 0)),
    ],
)
def test_the_side_that_has_more_gives(here, there, moved, url, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    store(a, CELL, *here)
    store(b, CELL, *there)
    RemoteStore(url).send(b, CELL.id)
    assert RemoteStore(url).exchange(a) == moved
    if any(moved):
        RemoteStore(url).take(b, CELL.id)
        assert same(a, b)


def test_what_is_there_may_be_taken_whatever_is_here(url, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    store(a, CELL, "oom")
    store(b, CELL)
    RemoteStore(url).send(a, CELL.id)
    assert RemoteStore(url).take(b, CELL.id)
    assert read_outcome(b, CELL.id).status == "oom"


@pytest.mark.parametrize(
    "damage", ["cut shard", "no shard", "cut outcome", "other cell", "leads out", "huge"]
)
def test_damage_is_left_there(damage, url, tmp_path, caplog, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    outcome = store(a)
    share = RemoteStore(url)
    share.send(a, CELL.id)
    shard, told = outcome.shards[0], f"cells/{CELL.id}/outcome.json"
    if damage == "cut shard":
        share._write(shard, (a / shard).read_bytes()[:-9])
    elif damage == "no shard":
        share._files.rm_file(f"{share._root}/{shard}")
    elif damage == "cut outcome":
        share._write(told, (a / told).read_bytes()[:40])
    elif damage == "huge":
        monkeypatch.setattr("lks.results.remote.LARGEST_JSON", 100)
    elif damage == "other cell":
        store(a, OTHER)
        share._write(told, (a / f"cells/{OTHER.id}/outcome.json").read_bytes())
    else:
        document = json.loads((a / told).read_bytes())
        share._write(told, json.dumps({**document, "shards": ["../../x.parquet"]}).encode())
    assert not share.take(b, CELL.id)
    assert url.replace(" ", "") in caplog.text.replace(" ", "") and ".coming" not in caplog.text
    assert not (b / "cells").exists() and [path.name for path in (b / "runs").iterdir()] == []


def test_ids_that_are_none_are_not_heeded(url, tmp_path):
    share = RemoteStore(url)
    share._write("cells/../outcome.json", b"{}")
    share._write("cells/x/outcome.json", b"{}")
    share._write(f"cells/{'0' * 16}/deeper/outcome.json", b"{}")
    assert share.exchange(tmp_path / "b") == (0, 0)


def test_a_link_that_leads_out_of_the_results_is_not_followed(url, tmp_path):
    a, b, outside = tmp_path / "a", tmp_path / "b", tmp_path / "outside"
    store(a)
    RemoteStore(url).send(a, CELL.id)
    outside.mkdir()
    (b / "cells").mkdir(parents=True)
    (b / "cells" / CELL.id).symlink_to(outside)
    with pytest.raises(UserError, match="leads out"):
        RemoteStore(url).take(b, CELL.id)
    assert not list(outside.iterdir())


def test_a_place_that_does_not_answer_is_asked_again(moody, tmp_path, monkeypatch):
    monkeypatch.setattr("lks.results.remote.FIRST_PAUSE_S", 0.001)
    store(tmp_path / "a")
    moody.away = 3
    RemoteStore("moody://x").send(tmp_path / "a", CELL.id)
    moody.away = 3
    assert RemoteStore("moody://x").exchange(tmp_path / "b") == (1, 0)
    moody.away = 10**6
    with pytest.raises(
        StoreError,
        match=r"LKS_SHARE=moody://x cannot be used \(ConnectionError: try later\)\. .*finished cells are kept",
    ):
        RemoteStore("moody://x", patience_s=0.01).send(tmp_path / "a", CELL.id)


def test_a_place_that_refuses_is_told_at_once(moody, tmp_path):
    store(tmp_path / "a")
    moody.refuses = True
    with pytest.raises(StoreError, match="PermissionError: no key"):
        RemoteStore("moody://x").exchange(tmp_path / "a")


def test_a_place_that_is_not_there_is_told(moody, tmp_path, monkeypatch):
    def gone(self, path, value, **kwargs):
        raise FileNotFoundError("no such bucket")

    store(tmp_path / "a")
    monkeypatch.setattr(moody, "pipe_file", gone)
    with pytest.raises(StoreError, match="no such bucket"):
        RemoteStore("moody://x").send(tmp_path / "a", CELL.id)


def test_folders_above_the_share_are_not_made(tmp_path):
    store(tmp_path / "a")
    with pytest.raises(StoreError, match="FileNotFoundError"):
        RemoteStore(f"file://{tmp_path}/mistyped/share").send(tmp_path / "a", CELL.id)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(("url", "says"), [("nonsense://x", "nonsense"), ("s3://bucket/x", "s3fs")])
def test_an_url_that_cannot_be_used_is_told_before_any_work(url, says, monkeypatch):
    monkeypatch.setenv("LKS_SHARE", url)
    with pytest.raises(UserError, match=f"LKS_SHARE={url} cannot be used: .*{says}"):
        share_in_use()


def test_a_password_in_the_url_is_refused_and_not_said():
    with pytest.raises(UserError, match="holds a password") as refused:
        RemoteStore("sftp://me:hunter2@host/x")
    assert "hunter2" not in str(refused.value)


def test_files_are_sent_once(moody, tmp_path):
    share = RemoteStore("moody://x")
    store(tmp_path / "a")
    share.send(tmp_path / "a", CELL.id)
    puts = [call for call in moody.calls if call.startswith("put")]
    share.send(tmp_path / "a", CELL.id)
    assert [call for call in moody.calls if call.startswith("put")] == puts and len(puts) == 2
    store(tmp_path / "a", CELL, "ok", (ANSWERS, "passages"))
    (tmp_path / "a" / "cells" / CELL.id / "passages.parquet").touch()
    share.send(tmp_path / "a", CELL.id)
    assert puts[0] in moody.calls and any("passages" in call for call in moody.calls)


def test_signs_of_life(url, tmp_path):
    share = RemoteStore(url)
    assert share.beats([CELL.id]) == {CELL.id: 0}
    with heartbeat(tmp_path, CELL.id, share):
        deadline = BEAT_EVERY_S
        while not (first := share.beats([CELL.id])[CELL.id]) and deadline:
            deadline -= 1
        share.beat(CELL.id)
        assert share.beats([CELL.id])[CELL.id] > first > 0
    assert share.beats([CELL.id]) == {CELL.id: 0}


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Results folders of a grid's machine and of a worker's."""
    monkeypatch.setenv("LKS_SHARE", f"file://{tmp_path}/share")
    monkeypatch.setenv("LKS_BEAT_S", "0.4")
    monkeypatch.setattr("flows.running.pool.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("flows.running.pool.APPEAR_S", 0.2)
    return tmp_path / "grid", tmp_path / "worker"


def run_pool(server: Server, results: Path) -> dict[str, Outcome]:
    return {
        outcome.cell.method: outcome
        for outcome in PoolRunner(results, Notes(), DurationEstimator([]), server).run(
            [OTHER, CELL], Measurements()
        )
    }  # type: ignore[arg-type]


class TestApart:
    def test_outcomes_of_workers_elsewhere_come_by_the_share(self, apart):
        server = Server(apart[1])
        assert {name: o.status for name, o in run_pool(server, apart[0]).items()} == {
            "none": "ok",
            "ft": "ok",
        }
        assert read_outcome(apart[0], CELL.id) == read_outcome(apart[1], CELL.id)
        assert all(run.parameters["share"].endswith("/share") for run in server.runs.values())

    def test_a_silent_run_is_started_once_more_and_its_old_outcome_not_taken(self, apart):
        grid, worker = apart
        store(worker, CELL, "error")
        RemoteStore(f"file://{grid.parent}/share").send(worker, CELL.id)
        outcome = run_pool(Server(worker, ft=["silent"]), grid)["ft"]
        assert (outcome.status, outcome.provenance) == ("ok", {"attempt": "2"})

    def test_a_run_whose_beat_is_on_the_share_lives(self, apart, monkeypatch):
        grid, worker = apart
        monkeypatch.setenv("LKS_CELL_TIMEOUT_S", "1.5")
        monkeypatch.setattr("flows.running.cell_runner.BEAT_EVERY_S", 0.05)
        server = Server(worker, ft=["silent"])
        with heartbeat(worker, CELL.id, share_in_use()):
            assert run_pool(server, grid)["ft"].status == "timeout"
        assert len(server.runs) == 2, "a run that beats was started again"

    def test_a_cell_takes_what_it_reads_and_leaves_each_stage(self, apart, monkeypatch):
        (grid, worker), share = apart, share_in_use()
        store(grid, OTHER)
        share.send(grid, OTHER.id)
        seen: list[object] = []

        def run(cell, method, results, report, bench, extras):
            report("edit", 0.5)
            seen.append((read_outcome(results, OTHER.id).status, share.take(grid, cell.id)))
            store(results, cell)
            report("passages", 0.0)
            seen.append(share.take(grid, cell.id) and read_outcome(grid, cell.id).stages)
            return store(results, cell, "ok", (ANSWERS, "passages"))

        monkeypatch.setattr("lks.runs.cell.run", run)
        outcome = CellRunner(worker, Notes(), Measurements(), share).run(CELL)
        assert seen == [("ok", False), {ANSWERS}]
        assert (
            share.take(grid, CELL.id) and read_outcome(grid, CELL.id) == outcome and len(outcome.shards) == 2
        )

    def test_a_share_that_has_gone_ends_the_grid_and_keeps_the_cell(self, apart, moody, monkeypatch):
        worker = apart[1]

        def run(cell, method, results, report, bench, extras):
            moody.refuses = True
            report("passages", 0.0)
            return store(results, cell)

        monkeypatch.setattr("lks.runs.cell.run", run)
        with pytest.raises(StoreError, match="cannot be used"):
            CellRunner(worker, Notes(), Measurements(), RemoteStore("moody://x")).run(CELL)
        moody.refuses = False
        assert RemoteStore("moody://x").exchange(worker, [CELL.id]) == (0, 1), "sent when it answers again"


def test_a_second_machine_takes_a_grid_from_the_share(tmp_path, monkeypatch, prefect_server):
    from flows.grid import grid

    (tmp_path / "grids.toml").write_text(fakes.GRIDS.replace("[1, 2, 3]", "[1]"))
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    monkeypatch.setenv("LKS_SHARE", f"file://{tmp_path}/share")
    cells = fakes.Cells()
    fakes.install(cells, monkeypatch.setattr)
    assert grid("tiny", tmp_path / "a") == {"stored": 0, "ok": 2}
    assert grid("tiny", tmp_path / "b") == {"stored": 2} and len(cells.ran) == 2


def test_without_a_share_nothing_is_carried(tmp_path, monkeypatch):
    monkeypatch.delenv("LKS_SHARE", raising=False)
    assert share_in_use().exchange(tmp_path, [CELL.id]) == (0, 0) and not list(tmp_path.iterdir())
