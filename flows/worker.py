"""A worker that keeps its process, and thus the model, between cells: `python -m flows.worker --pool gpu`.

It takes flow runs from a work pool of type process like `prefect worker start`, which can be used instead at
any time, but it does not start a new process for each. A deployment's `command` or working folder is ignored.
"""

import argparse
import asyncio
import contextlib
import os
import signal

from flows.settings import calm_prefect

ASK_EVERY_S = "2"
"""Seconds between two polls for cells while there are none; after a cell the next is requested at once."""


def main(arguments: list[str] | None = None) -> None:
    """Run cells until SIGTERM or Ctrl-C, which also end the running cell."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.worker",
        description="Run cells of a work pool in one process that keeps the model loaded.",
    )
    parser.add_argument(
        "--pool", default="gpu", help="work pool to take cells from; its type must be process"
    )
    parser.add_argument("--name", help="name of the worker on the server's pages")
    parser.add_argument(
        "--limit",
        type=int,
        default=1,
        help="number of cells run at the same time, each in its own process with its own model",
    )
    asked = parser.parse_args(arguments)
    if asked.limit < 1:
        parser.error("--limit: must be at least 1")
    calm_prefect(quiet=False)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", ASK_EVERY_S)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_work(asked.pool, asked.name, asked.limit))


async def _work(pool: str, name: str | None, limit: int) -> None:
    from rich.console import Console

    from flows.worker_pool.worker import CellWorker

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    say, worker = Console(soft_wrap=True, highlight=False).print, CellWorker(pool, name=name, limit=limit)

    def end() -> None:
        loop.remove_signal_handler(
            signal.SIGTERM
        )  # a second SIGTERM then ends this process at once, and its children with it
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        await worker.start(printer=say)
    except asyncio.CancelledError:
        say(f"Worker {worker.name!r} stopped!")


if __name__ == "__main__":
    main()
