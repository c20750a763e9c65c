"""Settings read from the environment once per command: where files are and how cells are run.

What to run is defined in `grids.toml`; what a method needs is defined in its own file.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lks.errors import UserError

Mode = Literal["here", "slots", "pool"]
"""How a grid's cells are run (see `flows.running.modes`): in the flow's process, in child processes of it, or
as flow runs on a work pool."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class Settings(BaseSettings):
    """Environment variables; each is named `LKS_` plus the attribute name in capitals.

    Attributes:
        results: folder of all results.
        grid: grid to run when none is named. If the user has not set it either, `Grid.otherwise` may replace
            it.
        grids: TOML file of the named grids.
        runner: how cells are run.
        slots: number of child processes in mode "slots"; None: one per GPU, or two without a GPU.
        cell_timeout_s: time limit per cell in seconds, in the modes "slots" and "pool"; 0 means no limit.
        pool_limit: maximum number of cell runs in flight in mode "pool"; None: four per online worker, or 16.
        pool_results: the results folder as workers see it, if their path differs from the local one.
        share: URL through which machines without a common folder exchange cells (`lks.results.remote`); ""
            for none.
        beat_s: seconds without a heartbeat after which a cell run in mode "pool" counts as lost.
        server_wait_s: seconds to wait for a Prefect server that does not answer.
        wait_s: seconds that a grid waits for another one on the same results folder; 0: it is refused at
            once.
    """

    model_config = SettingsConfigDict(env_prefix="LKS_", env_ignore_empty=True, frozen=True)

    results: Path = Path("results")
    grid: str = "first"
    grids: Path = Path(__file__).with_name("grids.toml")
    runner: Mode = "here"
    slots: Count | None = None
    cell_timeout_s: Seconds = 0.0
    pool_limit: Count | None = None
    pool_results: Path | None = None
    share: str = ""
    beat_s: Annotated[float, Field(gt=0)] = 120.0
    server_wait_s: Seconds = 300.0
    wait_s: Seconds = 0.0

    def __init__(self) -> None:
        """Read the environment.

        Raises:
            UserError: the value of a variable is invalid.
        """
        try:
            super().__init__()
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper().removeprefix("LKS_")
            raise UserError(f"LKS_{name}={first['input']}: {first['msg']}.") from None


def calm_prefect(quiet: bool) -> None:
    """Set Prefect's environment variables, keeping those that the user has set; call it before importing
    Prefect.

    Args:
        quiet: keep Prefect's log off the terminal, where the progress display is.
    """
    defaults = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    if quiet:
        defaults |= {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def calm_transformers() -> None:
    """Keep the progress bars and advice of transformers off the terminal, where they would garble the
    display.
    """
    from transformers.utils import logging as transformers_log

    transformers_log.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_log.set_verbosity_error()  # type: ignore[no-untyped-call]
