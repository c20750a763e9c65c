"""Prefect worker whose flow runs share a lasting process (`flows.worker_pool.child`) instead of a new one
each.
"""

import abc
import sys
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectException
from prefect.logging.loggers import get_worker_logger
from prefect.states import Cancelled, Crashed
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult

from flows.running.child_process import ChildProcess
from flows.worker_pool.child import ORDER, REPLY, ChildReply, ChildTask

COMMAND = (sys.executable, "-m", "flows.worker_pool.child")

LOOK_EVERY_S = 2.0
"""Seconds between two checks whether a run has been cancelled."""

SOON_S = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Pauses between requests for the next cell after one is finished."""

REPORT_S = 5.0
"""Seconds that the server may take to receive the report that a run has ended with this worker."""

OWN = "PREFECT__"
"""Prefix of environment variables that belong to a flow run; all others belong to a process."""


class CellWorker(BaseWorker[ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult], abc.ABC):
    """Runs the flow runs of a pool of type process in lasting children, one per concurrent flow run.

    It is marked abstract so that Prefect does not register it as a worker type; "process" is Prefect's own.
    """

    type = "process"
    job_configuration = ProcessJobConfiguration
    job_configuration_variables = ProcessVariables

    def __init__(self, work_pool_name: str, name: str | None, limit: int) -> None:
        super().__init__(work_pool_name, name=name, limit=limit)
        self._idle: list[ChildProcess] = []
        self._asking, self._over, self._started = anyio.Lock(), anyio.Event(), 0

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._ask_soon)
            await super().start(run_once, with_healthcheck, printer)
            group.cancel_scope.cancel()

    async def teardown(self, *exc_info: Any) -> None:
        """End the remaining children."""
        try:
            await super().teardown(*exc_info)
        finally:
            while self._idle:
                self._idle.pop().end()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take as many flow runs from the pool as there is room for; a server that is away is retried
        indefinitely.
        """
        async with self._asking:
            try:
                return await super().get_and_submit_flow_runs()
            except httpx.TransportError as error:
                get_worker_logger(self).warning("The server does not answer: %s", type(error).__name__)
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
                get_worker_logger(self).warning("The server answers: %s", error)
        return []

    async def _ask_soon(self) -> None:
        """Request the next run as soon as one is over, repeatedly in case another worker takes the run on
        offer.
        """
        while True:
            await self._over.wait()
            self._over = anyio.Event()
            started = self._started
            for pause in SOON_S:
                await anyio.sleep(pause)
                await self.get_and_submit_flow_runs()
                with anyio.move_on_after(LOOK_EVERY_S):  # until it runs, or another worker has it
                    while self._started == started and self.limiter.borrowed_tokens:
                        await anyio.sleep(0.02)
                if self._started != started:
                    break

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """Do not label the flow run.

        A server with SQLite usually refuses labels while others write, and a run then waits for the next
        attempt of Prefect's client: at least two seconds (`flows.running.http_retry`), twice what all of
        Prefect costs a cell without it (benchmarks/RESULTS.md, Scale). The run's log names the worker.
        Prefect 3.8.8 has no setting for that, and makes the worker's client itself; without this method runs
        only start later.
        """

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow run in an idle child or a new one; if interrupted, end the child and report that to the
        server.
        """
        self._started += 1
        environment = {name: value for name, value in configuration.env.items() if value is not None}
        child = self._take({name: value for name, value in environment.items() if not name.startswith(OWN)})
        if task_status:
            task_status.started(child.pid)
        order = ChildTask(
            flow_run.id, {name: value for name, value in environment.items() if name.startswith(OWN)}
        )
        try:
            reply = await self._watched(child, order)
        except BaseException:
            child.end()
            with anyio.CancelScope(shield=True), anyio.move_on_after(REPORT_S):
                await self._report(flow_run.id, Crashed(message="Its worker was ended."))
            raise
        code = 0
        if reply and not reply.spent:
            self._idle.append(child)
        else:
            code = child.end()
        status = reply.status if reply else code or 1
        if (not reply or reply.refused) and await self._is_cancelled(flow_run.id):
            await self._report(flow_run.id, Cancelled(message="Its process was ended."))
            status = 0
        self._over.set()
        return ProcessWorkerResult(status_code=status, identifier=str(child.pid))

    def _take(self, environment: Mapping[str, str]) -> ChildProcess:
        """Return an idle child with this environment, or start one."""
        while self._idle:
            child = self._idle.pop()
            if child.wait(0) is None and child.environment == environment:
                return child
            child.end()
        return ChildProcess(COMMAND, environment)

    async def _watched(self, child: ChildProcess, order: ChildTask) -> ChildReply | None:
        """Run a flow run to its end; its child is ended if the run is cancelled.

        Returns:
            The child's reply, or None if it ended before.
        """
        child.send(ORDER.dump_json(order))
        lines: list[bytes] | None = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_if_cancelled, child, order.flow_run)
            while lines == []:
                await anyio.wait_readable(child)
                lines = child.read()
            group.cancel_scope.cancel()
        return REPLY.validate_json(lines[0]) if lines else None

    async def _end_if_cancelled(self, child: ChildProcess, flow_run: UUID) -> None:
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            if await self._is_cancelled(flow_run):
                break
        get_worker_logger(self).info("Flow run '%s' is cancelled: ending process %s", flow_run, child.pid)
        child.kill()  # `_watched` notices that its output ends

    async def _is_cancelled(self, flow_run: UUID) -> bool:
        """Return whether a run is being cancelled, as far as the server can be reached."""
        try:
            state = (await self.client.read_flow_run(flow_run)).state
        except (httpx.HTTPError, PrefectException):
            return False
        return state is not None and (state.is_cancelling() or state.is_cancelled())

    async def _report(self, flow_run: UUID, state: State[Any]) -> None:
        """Report the state of a run to the server, which ignores it if the run is already over."""
        try:
            await self.client.set_flow_run_state(flow_run, state)
        except (httpx.HTTPError, PrefectException) as error:
            get_worker_logger(self).warning(
                "The server could not be notified that flow run '%s' is %s: %s", flow_run, state.name, error
            )
