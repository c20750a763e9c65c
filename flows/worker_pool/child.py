"""The process of a worker that runs cells: one after the other, with the libraries and the model of the last one at hand.

`python -m flows.worker_pool.child` reads one JSON line per flow run from its input and writes one to its output when the run is over. It ends at
once when its worker is gone.
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
    """To a child: run this.

    Attributes:
        flow_run: id on the server.
        environment: variables that name it to Prefect.
    """

    flow_run: UUID
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class ChildReply:
    """From a child: the run is over.

    Attributes:
        status: 0 where Prefect knows what the run has come to, as an exit code.
        refused: whether the server would not have it run.
        spent: whether the child is to be replaced: memory was short, and what is left of it is in pieces.
    """

    status: int = 0
    refused: bool = False
    spent: bool = False


ORDER, REPLY = TypeAdapter(ChildTask), TypeAdapter(ChildReply)


def _run(order: ChildTask) -> ChildReply:
    """A flow run, by Prefect's own engine."""
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
        logger.info("The server does not want flow run '%s' to go on: %s", order.flow_run, refusal)
        return ChildReply(refused=True)
    except Exception:
        logger.exception("Flow run '%s' ended with an exception", order.flow_run)
        return ChildReply(status=1)
    return ChildReply(spent=isinstance(state, State) and state.name == "Oom")


def _serve(parent: Parent) -> None:
    """Run flow runs for ever, with one client of the server and one place for a model."""
    from prefect.context import SyncClientContext
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from baselines import methods
    from flows.running.http_retry import client_settings
    from flows.running.process_cache import PROCESS_CACHE, ProcessCache

    methods()  # imported before the first cell, whose time that is not
    calm_transformers()
    PROCESS_CACHE.set(ProcessCache())
    # a run gives signs of life of its own (`flows.running.cell_runner.heartbeat`); the end of Prefect's is waited for, up to a second per run
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), SyncClientContext(client_settings()):
        while True:
            parent.tell(REPLY.dump_json(_run(ORDER.validate_json(parent.order()))))


def main() -> None:
    """Serve until the worker is gone; what this process has started is ended with it."""
    parent = Parent()
    parent.watch()
    _serve(parent)


if __name__ == "__main__":
    main()
