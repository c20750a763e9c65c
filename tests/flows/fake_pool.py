"""Stand-ins for what a grid on a work pool talks to."""

import json
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
from prefect.client.schemas.objects import State, StateType, WorkerStatus
from pydantic import TypeAdapter

from lks.results.cells import Cell, Costs, Outcome
from lks.results.remote import RemoteStore
from lks.results.shards import write_outcome


class Notes:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stages: list[tuple[str, str]] = []

    def begin(self, cells, kept, earlier):
        pass

    def start(self, cell):
        self.started.append(cell.label)

    def stage(self, cell, name, fraction):
        self.stages.append((cell.label, name))

    def finish(self, outcome):
        pass


class Server:
    """Stands in for Prefect's client: workers that finish what they are given, or what a test says of it.

    Attributes:
        happens: label -> what becomes of its runs, in turn; "ok" where nothing is said.
        away: so many of the next calls fail.
    """

    api_url = "http://fake/api"

    def __init__(self, results: Path, **happens: list[str]) -> None:
        self.results, self.happens, self.away = results, happens, 0
        self.runs: dict[str, SimpleNamespace] = {}
        self.requests: list[str] = []
        self.most = 0
        self.online = 0

    def _call(self, what: str) -> None:
        self.requests.append(what)
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("refused")

    def read_deployment_by_name(self, name):
        self._call("deployment")
        return SimpleNamespace(id=UUID(int=1), work_pool_name="gpu")

    def read_workers_for_work_pool(self, pool):
        self._call("workers")
        return [SimpleNamespace(status=WorkerStatus.ONLINE)] * self.online

    def create_flow_run_from_deployment(self, deployment, *, parameters, name, tags, idempotency_key):
        self._call("create")
        if idempotency_key not in self.runs:
            state = State(type=StateType.SCHEDULED)
            self.runs[idempotency_key] = SimpleNamespace(
                id=uuid4(), state=state, parameters=parameters, name=name, tags=tags, looks=0
            )
        return self.runs[idempotency_key]

    def read_flow_runs(self, *, flow_run_filter, deployment_filter, limit, offset):
        self._call("look")
        if flow_run_filter.id is None:
            return [
                r
                for r in self.runs.values()
                if not r.state.is_final() and set(flow_run_filter.tags.all_) <= set(r.tags)
            ]
        asked = [run for run in self.runs.values() if run.id in flow_run_filter.id.any_]
        self.most = max(self.most, len(asked))
        for run in asked:
            if not run.state.is_final():
                self._go_on(run)
        return [run for run in asked if run.state.name != "gone"]

    def _go_on(self, run) -> None:
        attempt = int(run.tags[-1].removeprefix("attempt-"))
        what = [*self.happens.get(run.name.partition(" ")[0], []), "ok", "ok"][attempt - 1]
        run.looks += 1
        if run.looks == 1:
            run.state = State(type=StateType.RUNNING)
        elif what == "ok":
            p = run.parameters
            made = TypeAdapter(Cell).validate_json(json.dumps(p["cell"]))
            write_outcome(self.results, Outcome(made, "ok", "", (), Costs(), {"attempt": str(attempt)}))
            if p["share"]:
                RemoteStore(p["share"]).send(self.results, made.id)
            run.state = State(type=StateType.COMPLETED)
        elif what != "silent":
            kinds = {
                "Crashed": StateType.CRASHED,
                "Cancelled": StateType.CANCELLED,
                "gone": StateType.CRASHED,
            }
            run.state = State(type=kinds.get(what, StateType.FAILED), name=what, message="process died")

    def set_flow_run_state(self, run, state, force=False):
        self._call("state")
        next(r for r in self.runs.values() if r.id == run).state = state
