"""Child process of a worker: runs cells one after the other, keeping the libraries and the last model loaded.

`python -m flows.worker_pool.child` reads one JSON line per flow run from its input and writes one to its
output when the run is over. It ends as soon as its worker is gone.
"""

import os
from dataclasses import dataclass
from logging import Logger, LoggerAdapter
from uuid import UUID

from pydantic import TypeAdapter

from flows.running.child_process import Parent
from flows.settings import calm_transformers


@dataclass(frozen=True, slots=True)
class ChildTask:
    """Order to a child to run a flow run.

    Attributes:
        flow_run: id of the flow run on the server.
        environment: environment variables that identify it to Prefect.
    """

    flow_run: UUID
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class ChildReply:
    """Message from a child that a run is over.

    Attributes:
        status: exit code; 0 if Prefect knows how the run has ended.
        refused: whether the server refused to have it run.
        spent: whether the child must be replaced because it ran out of memory and the rest may be fragmented.
    """

    status: int = 0
    refused: bool = False
    spent: bool = False


ORDER, REPLY = TypeAdapter(ChildTask), TypeAdapter(ChildReply)


def _run(order: ChildTask) -> ChildReply:
    """Run a flow run with Prefect's own engine.

    `load_flow` and `run_flow` are what `python -m prefect.flow_engine` calls for a flow run that exists. The
    documented ways (`prefect flow-run execute`, `prefect worker start`) do that in a new process, and calling
    the flow would make a new flow run. A new process spends 4.8 s of processor time on imports, a cell 0.2 s
    in all (benchmarks/RESULTS.md, Scale).
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State
    from prefect.exceptions import Abort, Pause
    from prefect.flow_engine import load_flow, run_flow
    from prefect.logging import get_logger
    from prefect.logging.loggers import flow_run_logger

    os.environ.update(order.environment)
    logger: Logger | LoggerAdapter[Logger] = get_logger("engine")
    try:
        flow_run = get_client(sync_client=True).read_flow_run(order.flow_run)
        logger = flow_run_logger(flow_run)
        state = run_flow(load_flow(flow_run), flow_run=flow_run, return_type="state")
    except (Abort, Pause) as refusal:
        logger.info("The server does not want flow run '%s' to continue: %s", order.flow_run, refusal)
        return ChildReply(refused=True)
    except Exception:
        logger.exception("Flow run '%s' ended with an exception", order.flow_run)
        return ChildReply(status=1)
    return ChildReply(spent=isinstance(state, State) and state.name == "Oom")


def _serve(parent: Parent[ChildTask, ChildReply]) -> None:
    """Run flow runs until the process is ended, with one client of the server and one model cache."""
    from prefect.context import SyncClientContext
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from baselines import methods
    from flows.running.http_retry import client_settings
    from flows.running.process_cache import PROCESS_CACHE, ProcessCache

    methods()  # imported before the first cell, so that its time does not include this
    calm_transformers()
    PROCESS_CACHE.set(ProcessCache())
    # runs have their own heartbeat (`flows.running.cell_runner.heartbeat`); ending Prefect's takes up to a
    # second per run
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), SyncClientContext(client_settings()):
        while True:
            parent.tell(_run(parent.order()))


def main() -> None:
    """Serve until the worker is gone; everything this process has started ends with it."""
    _serve(Parent(ORDER, REPLY))


if __name__ == "__main__":
    main()
