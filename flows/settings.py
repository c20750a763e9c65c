"""Where things are: the environment, read once per command. What to run is in `grids.toml`, what a method needs in its own file."""

import os
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Environment variables `LKS_RESULTS`, `LKS_GRID` and `LKS_GRIDS`.

    Attributes:
        results: folder of all results.
        grid: the grid that is run when none is named.
        grids: TOML file of the named grids.
    """

    model_config = SettingsConfigDict(env_prefix="LKS_", env_ignore_empty=True, frozen=True)

    results: Path = Path("results")
    grid: str = "micro"
    grids: Path = Path(__file__).with_name("grids.toml")


def calm_prefect(quiet: bool) -> None:
    """Set Prefect's environment; call it before Prefect is imported. What the user has set stays.

    Args:
        quiet: keep Prefect's log off the terminal, where the progress display is.
    """
    defaults = {
        "DO_NOT_TRACK": "1",
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
