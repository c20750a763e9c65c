"""Provenance of results: versions, device, time."""

import contextlib
import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from lks.io.atomic import write_whole

PACKAGES = ("lks-grid", "torch", "transformers", "duckdb", "prefect", "lm-eval", "ahocorasick-rs")


def provenance(results: Path | None = None) -> dict[str, str]:
    """Return versions, device and time, as text.

    Nothing is taken from the environment or the command line, where secrets may be. "finished" (ISO 8601) is
    the time of the results folder's file system where one is given. Machines that share a folder thus share
    the file server's clock, whatever their own clocks say. The store orders by it only cells of the same
    coordinates and different parameters or revisions, of which the newest is shown; no metric, no cell's
    identity and no duration depends on it.

    Args:
        results: the results folder.
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    finished = datetime.now(UTC) if results is None else time_of(results)
    return {
        **versions,
        "python": platform.python_version(),
        "device": device,
        "finished": finished.isoformat(timespec="seconds"),
    }


def time_of(folder: Path) -> datetime:
    """Return the current time by the clock of a folder's file system.

    Raises:
        StoreError: the folder cannot be written.
    """
    probe = folder / f".clock.{platform.node()}.{os.getpid()}"
    write_whole(probe, b"1")
    seconds = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return datetime.fromtimestamp(seconds, UTC)
