"""Cache of a process that runs many cells: the model and data loaded last, and hashes of model files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Files = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and modification time of a folder's files."""


class ProcessCache:
    """Of a process that runs many cells, each with resources of its own.

    Attributes:
        resources: the model, the data and the tests of abilities loaded last.
    """

    def __init__(self) -> None:
        self._hashes: dict[Path, tuple[Files, str]] = {}
        self.forget()

    def forget(self) -> None:
        """Drop everything, so that it is loaded again; to be called when files have changed."""
        from lks.runs.cell import LoadedResources

        self.resources = LoadedResources()
        self._hashes.clear()

    def weights_hash(self, folder: Path) -> str:
        """Return the hash of a model's weights; if the files have changed, the hash and the model are loaded
        again.
        """
        from lks.models.lm import weights_hash

        files = _files(sorted(folder.glob("*.safetensors")))
        known = self._hashes.get(folder)
        if known and known[0] == files:
            return known[1]
        if known:
            self.forget()
        self._hashes[folder] = files, weights_hash(folder)
        return self._hashes[folder][1]


PROCESS_CACHE: ContextVar[ProcessCache | None] = ContextVar("kept", default=None)
"""The cache of this process; set only where a process runs many cells."""


@contextmanager
def process_cache() -> Iterator[None]:
    """Keep models, datasets and hashes of weights in this process inside the `with`."""
    token = PROCESS_CACHE.set(PROCESS_CACHE.get() or ProcessCache())
    try:
        yield
    finally:
        PROCESS_CACHE.reset(token)


def _files(files: Sequence[Path]) -> Files:
    return tuple((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
