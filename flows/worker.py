"""A worker for cells that keeps its process, and with it the model, between them: `python -m flows.worker --pool gpu`.

It takes flow runs of a work pool of type process like `prefect worker start`, which can be used instead at any time, but starts no new
process for each. A `command` or a working folder of a deployment is not heeded.
"""

import argparse
import asyncio
import contextlib
import os
import signal

from flows.settings import calm_prefect

ASK_EVERY_S = "2"
"""Seconds between two looks for cells where there were none; after a cell the next is asked for at once."""


def main(arguments: list[str] | None = None) -> None:
    """Run cells until SIGTERM or Ctrl-C, which end the one in hand."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.worker",
        description="Run cells of a work pool, in one process that keeps the model.",
    )
    parser.add_argument("--pool", default="gpu", help="work pool, of type process")
    parser.add_argument("--name", help="of the worker, on the server's pages")
    parser.add_argument(
        "--limit", type=int, default=1, help="cells at once, each in a process with a model of its own"
    )
    asked = parser.parse_args(arguments)
    if asked.limit < 1:
        parser.error("--limit: at least 1")
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
        )  # a second one ends this process as it is, and its children with it
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        await worker.start(printer=say)
    except asyncio.CancelledError:
        say(f"Worker {worker.name!r} stopped!")


if __name__ == "__main__":
    main()
