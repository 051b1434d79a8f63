"""Downloads: staging, keys and transfer of many files at the same time."""

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
from mdm_wire.url import surl_authority

from mdm_client.fetch.ciphertext import Ciphertext
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.staging import SiteStaging
from mdm_client.fetch.transfer import KeyRing, fetch_file
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_client.keystore.client import KeySource
from mdm_client.local_file import AtomicFile, local_error, stops_all

_JOIN_SECONDS = 5.0
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch: give up after `timeout` seconds without progress; `durable`: fsync each file.

    `jobs` files at a time are read of a site that streams one file a call, and forced to the disk; else one stream brings them all.

    Unless `replace`, an existing file is kept and the planned file fails. With `recipients`, public keys, files are written as Crypt4GH for
    them (`mdm_client.fetch.export`).
    """

    jobs: int = 4
    timeout: float = 600.0
    durable: bool = False
    replace: bool = False
    recipients: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file's result: its size in bytes, or the error. `path` is that of the plan, `planned`, below the output directory."""

    lfn: str
    guid: UUID
    path: Path
    size: int = 0
    error: MdmError | None = None
    planned: str = ""


class Download:
    """One fetch of many files. `results` may be iterated once; leaving it early aborts the rest and leaves no partial files."""

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
        #: Whether no thread of this download uses a channel, so that channels may be closed.
        self.idle = True
        self._results: queue.SimpleQueue[FileResult | None] = queue.SimpleQueue()
        self._keys = KeyRing(keys, self._cancellation, options.timeout)
        self._workers = ThreadPoolExecutor(max_workers=options.jobs, thread_name_prefix="fetch")
        self._made: set[Path] = set()
        self._defect = "the transfer ended without a result"
        self._obstacle: MdmError | None = None

    def results(self) -> Generator[FileResult, None, None]:
        """Yield each file's result as it is known; a file with several paths is fetched once and has a result for each.

        Nothing remains on disk of a file that failed or was not finished when the generator is closed. An error that would stop every
        file, such as a full disk or a refused certificate, ends the download: each file not yet fetched fails with it.
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
        """Yield the files that finished while everything stopped, and the others as failed."""
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
                self._received,
                beside=self._options.jobs if self._options.durable else 0,
            )
            threads.append(threading.Thread(target=self._run, args=(staging,), name=f"stage-{site}", daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def _run(self, staging: SiteStaging) -> None:
        try:
            staging.run()
        except Exception as error:  # a defect: each of its files is reported as failed
            self._defect = f"{type(error).__name__}: {error}"
        finally:
            self._results.put(None)

    def _by_site(self) -> dict[str, dict[str, PlannedFile]]:
        """Return the files by site and SURL, each at the first of its replicas whose site is configured."""
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

    def _fetch(self, file: PlannedFile, source: Ciphertext) -> None:
        """Fetch one pinned file and report it.

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
        for number, same in enumerate(self._same[file.guid]):
            if number and written is None:
                source = source.again()
            write = partial(self._copy, written) if written else partial(self._receive, file.guid, key, source)
            if self._write(same, write):
                written = written or (None if self._options.recipients else same)

    def _receive(self, guid: UUID, key: bytes, source: Ciphertext, path: Path) -> int:
        """Write the data that the site sends; return their size in bytes."""
        options = self._options
        return fetch_file(source, key, guid, path, options.durable, replace=options.replace, recipients=options.recipients)

    def _write(self, file: PlannedFile, write: Callable[[Path], int]) -> bool:
        """Write one local file, report it, and return whether it was written; an error that would stop every file ends the download."""
        path = self._directory / file.path
        try:
            self._make_parent(path)
            written = write(path)
        except OSError as error:
            if stops_all(error, self._directory):
                self._give_up(local_error(error, str(self._directory), "written"))
            else:
                self._results.put(self._failure(file, local_error(error, str(path), "written")))
            return False
        self._clock.tick()
        self._results.put(FileResult(file.location.lfn, file.guid, path, written, planned=file.path))
        return True

    def _copy(self, first: PlannedFile, path: Path) -> int:
        """Write a file that was fetched under another path, too; return its size in bytes."""
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
            except FileExistsError as error:  # a file in place of a directory: `replace` is not about that
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
            self._made.add(path.parent)

    def _received(self, count: int) -> None:
        self._clock.tick()
        if self._notify:
            self._notify(count)

    def _give_up(self, error: MdmError) -> None:
        """End `results`; every file that is not fetched fails with `error`."""
        self._obstacle = self._obstacle or error
        self._results.put(None)

    def _fail(self, file: PlannedFile, error: MdmError) -> None:
        for same in self._same[file.guid]:
            self._results.put(self._failure(same, error))

    def _failure(self, file: PlannedFile, error: MdmError) -> FileResult:
        return FileResult(file.location.lfn, file.guid, self._directory / file.path, 0, error, planned=file.path)
