"""Shared by all tests: one thread for torch, Prefect kept to itself."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import calm_prefect

calm_prefect(quiet=True)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no worker ends with one of them while the others are idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def preparations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, so that nothing prepared earlier hides a fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def made_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new store's catalogue is a copy of one that was made before: making one takes half a second, and
    hundreds of tests have a store.
    """
    import duckdb

    from lks.errors import StoreError
    from lks.io.atomic import write_whole
    from lks.results import connection as catalogue
    from lks.results import store

    made = tmp_path_factory.mktemp("catalogue") / "empty.duckdb"
    with duckdb.connect(str(made)) as connection:
        catalogue.prepare(connection)
    content = made.read_bytes()

    def connect(path: Path, wait: float) -> duckdb.DuckDBPyConnection:
        if not path.exists():
            with contextlib.suppress(StoreError):  # the real one says what is wrong
                write_whole(path, content)
        return catalogue.connect(path, wait)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "connect", connect)
        yield


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "LKS_RESULTS",
        "LKS_GRID",
        "LKS_GRIDS",
        "LKS_METHODS",
        "LKS_PRESETS",
        "LKS_PRESET_FILES",
        "LKS_FACTS",
        "LKS_DTYPE",
        "LKS_TRAINING_PROMPTS",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of Prefect's own for the processes that tests start."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
