"""Fetches files: staging, keys and transfer side by side."""

import errno
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from mdm_wire.errors import Code, Invalid, MdmError, NotFound
from mdm_wire.retry import needs_mending
from mdm_wire.url import surl_authority, turl_authority

from mdm_client.fetch.keyring import KeyRing
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.staging import Clock, SiteStaging
from mdm_client.fetch.transfer import Cancellation, StagedFile, fetch_file
from mdm_client.keystore.client import KeySource
from mdm_client.local_file import AtomicFile, local_error, stops_all

_JOIN_SECONDS = 5.0
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch: `jobs` files at a time; give up after `timeout` seconds without progress; `durable`: fsync each file.

    Files that exist stay, and those that would have their names fail, unless `replace`.
    """

    jobs: int = 4
    timeout: float = 600.0
    durable: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file's result: its size in bytes under `path`, which is `planned` below the output directory, or the error."""

    lfn: str
    guid: UUID
    path: Path
    size: int = 0
    error: MdmError | None = None
    planned: str = ""


class Download:
    """One fetch of many files. `results` may be iterated once; leaving it early aborts everything cleanly."""

    def __init__(
        self,
        files: Sequence[PlannedFile],
        directory: Path,
        sites: Callable[[str], SrmClient],
        keys: KeySource,
        options: FetchOptions = FetchOptions(),
        received: Callable[[int], None] | None = None,
    ) -> None:
        self._files = files
        self._same: dict[UUID, list[PlannedFile]] = {}
        for file in files:
            self._same.setdefault(file.guid, []).append(file)
        self._directory = directory
        self._sites = sites
        self._options = options
        self._notify = received
        self._clock = Clock(options.timeout)
        self._cancellation = Cancellation()
        #: Whether no thread of this download uses a channel any more, so that channels may be closed.
        self.idle = True
        self._results: queue.SimpleQueue[FileResult | None] = queue.SimpleQueue()
        self._keys = KeyRing(keys, self._cancellation, options.timeout)
        self._workers = ThreadPoolExecutor(max_workers=options.jobs, thread_name_prefix="fetch")
        self._made: set[Path] = set()
        self._defect = "the transfer ended without a result"
        self._obstacle: MdmError | None = None

    def results(self) -> Generator[FileResult, None, None]:
        """Yield each file's result as it is known; a file with several paths is fetched once and has a result for each.

        Nothing of a file that failed, or was not finished when the generator is closed, remains on disk. What would stop every
        file, such as a full disk or a refused certificate, stops all at once: each file not yet fetched fails with it.
        """
        self.idle = False
        self._keys.request(list(self._same))
        threads = self._start()
        running = len(threads)
        outstanding = {file.path: file for file in self._files}
        try:
            while (running or not self._results.empty()) and not self._obstacle:
                result = self._results.get()
                if result is None:
                    running -= 1
                elif outstanding.pop(result.planned, None) is not None:
                    yield result
            self._stop(threads)
            yield from self._rest(outstanding)
        finally:
            self._stop(threads)
            self.idle = not any(thread.is_alive() for thread in threads)

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        self._cancellation.stop()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
        self._keys.close()
        self._workers.shutdown(wait=True)

    def _rest(self, outstanding: dict[str, PlannedFile]) -> Iterator[FileResult]:
        """Yield what was finished while everything stopped, and what never will be."""
        while not self._results.empty():
            result = self._results.get()
            if result is not None and outstanding.pop(result.planned, None) is not None:
                yield result
        for file in outstanding.values():
            error = self._obstacle or MdmError("CLIENT_DEFECT", f"{file.path}: {self._defect}", code=Code.INTERNAL)
            yield self._failure(file, error)

    def _start(self) -> list[threading.Thread]:
        threads = []
        for site, files in self._by_site().items():
            staging = SiteStaging(
                self._sites(site),
                files,
                self._workers.submit,
                self._fetch,
                self._fail,
                self._clock,
                self._cancellation,
            )
            threads.append(threading.Thread(target=self._run, args=(staging,), name=f"stage-{site}", daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def _run(self, staging: SiteStaging) -> None:
        try:
            staging.run()
        except Exception as error:  # a defect: its files are reported as failed, in one line each
            self._defect = f"{type(error).__name__}: {error}"
        finally:
            self._results.put(None)

    def _by_site(self) -> dict[str, dict[str, PlannedFile]]:
        """Return the files by site and SURL; the first replica at a configured site counts."""
        sites: dict[str, dict[str, PlannedFile]] = {}
        for file, *_ in self._same.values():
            try:
                site, surl = self._choose(file)
            except MdmError as error:
                self._fail(file, error)
            else:
                sites.setdefault(site, {})[surl] = file
        return sites

    def _choose(self, file: PlannedFile) -> tuple[str, str]:
        problem: MdmError = NotFound("NO_REPLICA", f"{file.location.lfn}: no available copy")
        for surl in file.location.surls:
            try:
                site = surl_authority(surl)
                self._sites(site)
            except Invalid as error:
                problem = error
            else:
                return site, surl
        raise problem

    def _fetch(self, file: PlannedFile, turl: str, size: int) -> None:
        """Fetch one pinned file in a worker and report it.

        Raises:
            MdmError: the site could not be read; the file may be staged again.
        """
        self._cancellation.check()
        try:
            key = self._keys.key(file.guid)
        except MdmError as error:
            self._fail(file, error)
            if needs_mending(error):
                self._give_up(error)
            return
        written: PlannedFile | None = None
        for same in self._same[file.guid]:
            write = partial(self._copy, written) if written else partial(self._receive, file.guid, key, turl, size)
            if self._write(same, write):
                written = written or same

    def _receive(self, guid: UUID, key: bytes, turl: str, size: int, path: Path) -> int:
        """Write what the site sends; return its size in bytes."""
        source = StagedFile(self._sites(turl_authority(turl)), turl, size, self._cancellation, self._received)
        return fetch_file(source, size, key, guid, path, self._options.durable, replace=self._options.replace)

    def _write(self, file: PlannedFile, write: Callable[[Path], int]) -> bool:
        """Have one local file written, report it and return whether it was; what stops it may stop everything."""
        path = self._directory / file.path
        try:
            self._make_parent(path)
            written = write(path)
        except OSError as error:
            if stops_all(error, self._directory):
                self._give_up(local_error(error, str(self._directory), "written"))
            else:
                self._fail_one(file, local_error(error, str(path), "written"))
            return False
        self._clock.tick()
        self._results.put(FileResult(file.location.lfn, file.guid, path, written, planned=file.path))
        return True

    def _copy(self, first: PlannedFile, path: Path) -> int:
        """Write what was fetched under another path, too; return its size in bytes."""
        with (
            (self._directory / first.path).open("rb", buffering=0) as source,
            AtomicFile(path, self._options.durable, replace=self._options.replace) as copy,
        ):
            size = 0
            while data := source.read(_COPY_BYTES):
                copy.write(data)
                size += len(data)
            return size

    def _make_parent(self, path: Path) -> None:
        if path.parent not in self._made:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:  # not of the file that is fetched, which alone `replace` is about
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
            self._made.add(path.parent)

    def _received(self, count: int) -> None:
        self._clock.tick()
        if self._notify:
            self._notify(count)

    def _give_up(self, error: MdmError) -> None:
        """Let `results` end, and everything that is not fetched fail with `error`."""
        self._obstacle = self._obstacle or error
        self._results.put(None)

    def _fail(self, file: PlannedFile, error: MdmError) -> None:
        for same in self._same[file.guid]:
            self._fail_one(same, error)

    def _fail_one(self, file: PlannedFile, error: MdmError) -> None:
        self._results.put(self._failure(file, error))

    def _failure(self, file: PlannedFile, error: MdmError) -> FileResult:
        return FileResult(file.location.lfn, file.guid, self._directory / file.path, 0, error, planned=file.path)
