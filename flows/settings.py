"""Where things are and how cells are run: the environment, read once per command.

What to run is in `grids.toml`, what a method needs in its own file.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lks.errors import UserError

Mode = Literal["here", "slots", "pool"]
"""How a grid's cells are run (`flows.running.base`): in the flow's process, in child processes of it, or as flow runs on a work pool."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class Settings(BaseSettings):
    """Environment variables: `LKS_` and the name in capitals.

    Attributes:
        results: folder of all results.
        grid: the grid that is run when none is named. Where nobody has chosen it either, `Grid.otherwise` may take its place.
        grids: TOML file of the named grids.
        runner: how cells are run.
        slots: child processes of mode "slots"; None: one per GPU, without a GPU two.
        cell_timeout_s: seconds that a cell may take in the modes "slots" and "pool"; 0 means for ever.
        pool_limit: cell runs in flight of mode "pool"; None: four per worker that is online, or 16.
        pool_results: the results folder as workers see it, where that is another path than here.
        share: URL by which machines without a common folder pass cells to each other (`lks.results.remote`); "" where there is none.
        beat_s: seconds without a sign of life after which a cell run of mode "pool" counts as lost.
        server_wait_s: seconds that an absent Prefect server is waited for.
        wait_s: seconds that a grid waits for another one on the same results folder; 0: it is refused.
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
            UserError: a variable's value makes no sense.
        """
        try:
            super().__init__()
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper().removeprefix("LKS_")
            raise UserError(f"LKS_{name}={first['input']}: {first['msg']}.") from None


def calm_prefect(quiet: bool) -> None:
    """Set Prefect's environment; call it before Prefect is imported. What the user has set stays.

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
    """Keep its bars and advice off the terminal, where they would tear the display."""
    from transformers.utils import logging as transformers_log

    transformers_log.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_log.set_verbosity_error()  # type: ignore[no-untyped-call]
