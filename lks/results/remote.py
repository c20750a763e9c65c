"""Exchange of cells through a URL (an object store, SSH, anything that fsspec supports).

It serves machines without a common folder: each keeps its own results folder. The share holds `cells/<id>/`
as a results folder does, with a cell's `outcome.json` written last, and `beats/<id>`, the heartbeats of
running cells. What comes from there is checked as untrusted input before it is used.
"""

import contextlib
import logging
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lks.errors import DataError, StoreError, UserError
from lks.io.atomic import write_whole
from lks.io.parquet import LARGEST_FILE
from lks.io.retry import Retries
from lks.io.untrusted import LARGEST_JSON, check_inside, one_line
from lks.progress import Progress, no_progress
from lks.results.cells import Outcome
from lks.results.shards import check_cell, parse_outcome, read_outcome, stored_outcome

logger = logging.getLogger(__name__)
_ID = re.compile("[0-9a-f]{16}")

PATIENCE_S = 120.0
"""Seconds for which a share that does not answer is asked again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
AT_ONCE = 8
"""Number of cells that are transferred at the same time."""


class CellExchange:
    """Exchange of cells with other machines. This one exchanges nothing: they have a common folder, or there
    are none.

    Attributes:
        url: where cells are exchanged; "" for nowhere.
    """

    url = ""

    def exchange(
        self,
        results: Path,
        cell_ids: Collection[str] | None = None,
        sending: bool = True,
        progress: Progress = no_progress,
    ) -> tuple[int, int]:
        """Fetch and send cells, and return the number fetched and the number sent."""
        return 0, 0

    def outcome(self, cell_id: str) -> Outcome | None:
        """Return a cell's outcome according to the other side."""
        return None

    def take(self, results: Path, cell_id: str) -> bool:
        """Copy a cell to the folder and return whether there was one to copy."""
        return False

    def send(self, results: Path, cell_id: str, patience_s: float | None = None) -> bool:
        """Copy a cell from the folder and return whether there was one to copy."""
        return False

    def beat(self, cell_id: str) -> None:
        """Leave a heartbeat."""

    def clear_heartbeat(self, cell_id: str) -> None:
        """Remove the heartbeat."""

    def beats(self, cell_ids: Collection[str]) -> Mapping[str, int]:
        """Return the last heartbeats, as numbers that change; 0 or no entry where there is none."""
        return {}


NO_EXCHANGE = CellExchange()


class RemoteStore(CellExchange):
    """A share of cells at a URL.

    Args:
        url: a URL as in fsspec: "s3://bucket/folder", "gs://bucket/folder", "sftp://host/folder",
            "file:///mnt/folder".
        patience_s: seconds for which it is asked again if it does not answer.

    Raises:
        UserError: fsspec cannot use the URL, a package for such URLs is missing, or it holds a password.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.url, self._patience_s = url, patience_s
        if urlsplit(url).password is not None:
            raise UserError(
                "LKS_SHARE holds a password, which would be seen in logs. "
                "Leave it out: keys come from where the package looks for them."
            )
        self._sent: dict[Path, tuple[int, int]] = {}
        import fsspec  # late: most runs have no share

        try:
            files, root = fsspec.core.url_to_fs(url)
        except Exception as error:  # noqa: BLE001  each backend raises its own errors
            raise UserError(f"LKS_SHARE={url} cannot be used: {one_line(error)}.") from None
        self._files: Any = files
        self._root = str(root).rstrip("/")

    def exchange(
        self,
        results: Path,
        cell_ids: Collection[str] | None = None,
        sending: bool = True,
        progress: Progress = no_progress,
    ) -> tuple[int, int]:
        """Fetch cells of which the share has more than the folder, and send those of which it has less.

        A result is more than a failure, and more stages are more than fewer. Of two failures, or two results
        of which neither has all stages of the other, each side keeps its own.

        Args:
            results: folder of all results; created if it does not exist.
            cell_ids: cells to exchange; all that either side has if not given.
            sending: whether anything is sent.
            progress: called with the fraction done.

        Returns:
            The number of cells fetched, and the number sent.

        Raises:
            StoreError: the share does not answer, or a side cannot be written.
        """
        from lks.results.store import Store

        Store(results)  # from here on it is a results folder of this protocol version
        there = self._cells() if cell_ids is None or len(cell_ids) > AT_ONCE else set(cell_ids)
        wanted = sorted(
            cell_ids
            if cell_ids is not None
            else there | {path.parent.name for path in (results / "cells").glob("*/outcome.json")}
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            theirs = pool.map(lambda cell_id: self.outcome(cell_id) if cell_id in there else None, wanted)
            pairs = [
                (cell_id, _stored(results, cell_id), other)
                for cell_id, other in zip(wanted, theirs, strict=True)
            ]
            takes = [cell_id for cell_id, own, other in pairs if _is_more(other, own)]
            sends = [cell_id for cell_id, own, other in pairs if sending and _is_more(own, other)]
            jobs = [partial(self.take, results, cell_id) for cell_id in takes] + [
                partial(self.send, results, cell_id) for cell_id in sends
            ]
            carried = []
            for moved in pool.map(lambda job: job(), jobs):
                carried.append(moved)
                progress(len(carried) / len(jobs))
        return sum(carried[: len(takes)]), sum(carried[len(takes) :])

    def outcome(self, cell_id: str) -> Outcome | None:
        """Return a cell's outcome according to the share; None where it is missing or cannot be read.

        Raises:
            StoreError: the share does not answer.
        """
        with contextlib.suppress(DataError, ValueError):
            content = self._read(f"cells/{cell_id}/outcome.json", LARGEST_JSON)
            return parse_outcome(content) if content is not None else None
        return None

    def take(self, results: Path, cell_id: str) -> bool:
        """Copy a cell from the share to the folder, replacing what was there.

        Its files are checked in a temporary folder before any of them is put in place.

        Returns:
            Whether the share has the cell, intact.

        Raises:
            StoreError: the share does not answer, or the folder cannot be written.
        """
        with _room(results) as room:
            try:
                content = self._read(f"cells/{cell_id}/outcome.json", LARGEST_JSON)
                if content is None:
                    return False
                write_whole(room / "cells" / cell_id / "outcome.json", content)
                outcome = read_outcome(room, cell_id)
                if outcome == _stored(results, cell_id):
                    return True
                for shard in outcome.shards:
                    write_whole(room / shard, self._read(shard, LARGEST_FILE) or b"")
                check_cell(room, outcome)
            except DataError as error:
                logger.warning(
                    "A cell of %s was not taken: %s", self.url, str(error).replace(str(room), self.url)
                )
                return False
            for file in (*outcome.shards, f"cells/{cell_id}/outcome.json"):
                check_inside(results, results / file)
                write_whole(results / file, (room / file).read_bytes())
        return True

    def send(self, results: Path, cell_id: str, patience_s: float | None = None) -> bool:
        """Copy a cell from the folder to the share.

        A file that this object has sent, and that has not changed since, is not sent again.

        Args:
            results: folder of all results.
            cell_id: the cell.
            patience_s: used instead of the share's own.

        Returns:
            Whether the folder has the cell.

        Raises:
            StoreError: the share does not answer or refuses.
        """
        outcome = _stored(results, cell_id)
        if outcome is None:
            return False
        for file in (*outcome.shards, f"cells/{cell_id}/outcome.json"):
            place = results / file
            found = place.stat()
            mark = found.st_mtime_ns, found.st_size
            if self._sent.get(place) != mark:
                try:
                    self._patiently(partial(self._write, file, place.read_bytes()), patience_s)
                except FileNotFoundError as error:  # such as a bucket that does not exist
                    raise self._unusable(error) from None
                self._sent[place] = mark
        return True

    def beat(self, cell_id: str) -> None:
        """Leave a heartbeat; failures are ignored."""
        with contextlib.suppress(Exception):
            self._write(f"beats/{cell_id}", str(time.time_ns()).encode())

    def clear_heartbeat(self, cell_id: str) -> None:
        """Remove the heartbeat."""
        with contextlib.suppress(Exception):
            self._files.rm_file(f"{self._root}/beats/{cell_id}")

    def beats(self, cell_ids: Collection[str]) -> Mapping[str, int]:
        """Return the last heartbeats, as numbers that change; 0 where there is none."""

        def last(cell_id: str) -> int:
            with contextlib.suppress(Exception):
                return int(self._files.cat_file(f"{self._root}/beats/{cell_id}")[:32])
            return 0

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(cell_ids, pool.map(last, cell_ids), strict=True))

    def _cells(self) -> set[str]:
        """Return the ids of the cells on the share."""
        try:
            found = [
                str(path).split("/")[-2:]
                for path in self._patiently(lambda: self._files.find(f"{self._root}/cells"))
            ]
        except FileNotFoundError:
            return set()
        return {folder for folder, file in found if file == "outcome.json" and _ID.fullmatch(folder)}

    def _read(self, file: str, largest: int) -> bytes | None:
        """Return a file's content; None if it is missing.

        Raises:
            DataError: it is larger than any valid file.
        """
        path = f"{self._root}/{file}"
        try:
            size = self._patiently(lambda: self._files.info(path))["size"] or 0
            if size > largest:
                raise DataError(f"{self.url}/{file} has {size:,} bytes; more than {largest:,} are not read.")
            return bytes(self._patiently(lambda: self._files.cat_file(path)))
        except FileNotFoundError:
            return None

    def _write(self, file: str, content: bytes) -> None:
        path = f"{self._root}/{file}"
        try:
            self._files.pipe_file(path, content)
        except FileNotFoundError:  # a backend with folders
            self._make_folders(file)
            self._files.pipe_file(path, content)

    def _make_folders(self, file: str) -> None:
        """Create the share's own folder, if its parent exists, and a file's folders in it.

        A bucket is never created, since its name may be mistyped.
        """
        folder = self._root
        for part in ("", *file.split("/")[:-1]):
            folder = f"{folder}/{part}".rstrip("/")
            with contextlib.suppress(FileExistsError):
                self._files.mkdir(folder, create_parents=False)

    def _patiently(self, call: Callable[[], Any], patience_s: float | None = None) -> Any:
        """Call the share; if it does not answer, call again with growing pauses.

        Raises:
            FileNotFoundError: the requested file does not exist.
            StoreError: it does not answer for too long, or refuses.
        """
        limit_s = self._patience_s if patience_s is None else patience_s
        retries = Retries(limit_s, FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                self._files.invalidate_cache()  # drop listings: other machines write too
                return call()
            except FileNotFoundError:
                raise
            except Exception as error:  # noqa: BLE001  each backend raises its own errors
                if isinstance(error, PermissionError) or not retries.pause():
                    raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> StoreError:
        why = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        advice = "Fix that and start again: finished cells are kept in the results folder, and sent then"
        return StoreError(f"LKS_SHARE={self.url} cannot be used ({why}). {advice}.")


def _is_more(one: Outcome | None, other: Outcome | None) -> bool:
    """Return whether one side knows more about a cell than the other."""
    if one is None or other is None:
        return one is not None
    if "ok" in (one.status, other.status):
        return other.status != "ok" or (one.status == "ok" and one.written > other.written)
    return False


def _stored(results: Path, cell_id: str) -> Outcome | None:
    """Return a cell's outcome in the folder, if all its shards are there."""
    outcome = stored_outcome(results, cell_id)
    return outcome if outcome and all((results / shard).is_file() for shard in outcome.shards) else None


@contextlib.contextmanager
def _room(results: Path) -> Iterator[Path]:
    """Create a temporary folder for unchecked files, removed on exit.

    Raises:
        StoreError: the results folder cannot be written.
    """
    try:
        (results / "runs").mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".coming-", dir=results / "runs")
    except OSError as error:
        raise StoreError(
            f"{results} cannot be written: {error.strerror}. Use another folder with --results."
        ) from None
    with folder as name:
        yield Path(name)
