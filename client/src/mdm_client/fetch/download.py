"""Fetches files: staging, keys and transfer side by side."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from grpc import StatusCode
from mdm_wire.errors import Invalid, MdmError, NotFound, make_error
from mdm_wire.url import surl_authority, turl_authority

from mdm_client.fetch.keyring import KeyRing, KeySource
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.staging import Clock, SiteStaging
from mdm_client.fetch.transfer import Cancellation, StagedFile, fetch_file
from mdm_client.local_file import local_error

_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch: `jobs` files at a time; give up after `timeout` seconds without progress; `durable`: fsync each file."""

    jobs: int = 4
    timeout: float = 600.0
    durable: bool = False


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file's outcome: its size in bytes under `path`, or the error."""

    lfn: str
    guid: UUID
    path: Path
    size: int = 0
    error: MdmError | None = None


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
        self._directory = directory
        self._sites = sites
        self._options = options
        self._notify = received
        self._clock = Clock(options.timeout)
        self._cancellation = Cancellation()
        #: Whether no thread of this download uses a channel any more, so that channels may be closed.
        self.quiet = True
        self._results: queue.SimpleQueue[FileResult | None] = queue.SimpleQueue()
        self._keys = KeyRing(keys, self._cancellation, options.timeout)
        self._workers = ThreadPoolExecutor(max_workers=options.jobs, thread_name_prefix="fetch")
        self._made: set[Path] = set()
        self._defect = "the transfer ended without a result"

    def results(self) -> Generator[FileResult, None, None]:
        """Yield each file's outcome as it is known.

        Nothing of a file that failed, or was not finished when the generator is closed, remains on disk.
        """
        self.quiet = False
        self._keys.request([file.guid for file in self._files])
        threads = self._start()
        running = len(threads)
        outstanding = {file.guid: file for file in self._files}
        try:
            while running or not self._results.empty():
                result = self._results.get()
                if result is None:
                    running -= 1
                elif outstanding.pop(result.guid, None):
                    yield result
            for file in outstanding.values():
                yield self._failure(file, make_error(StatusCode.INTERNAL, "CLIENT_DEFECT", f"{file.path}: {self._defect}"))
        finally:
            self._cancellation.stop()
            for thread in threads:
                thread.join(_JOIN_SECONDS)
            self._keys.close()
            self._workers.shutdown(wait=True)
            self.quiet = not any(thread.is_alive() for thread in threads)

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
        for file in self._files:
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
        path = self._directory / file.path
        try:
            key = self._keys.key(file.guid)
        except MdmError as error:
            self._fail(file, error)
            return
        source = StagedFile(self._sites(turl_authority(turl)), turl, size, self._cancellation, self._received)
        try:
            self._make_parent(path)
            written = fetch_file(source, size, key, file.guid, path, self._options.durable)
        except OSError as error:
            self._fail(file, local_error(error, str(path), "written"))
        else:
            self._clock.tick()
            self._results.put(FileResult(file.location.lfn, file.guid, path, written))

    def _make_parent(self, path: Path) -> None:
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)

    def _received(self, count: int) -> None:
        self._clock.tick()
        if self._notify:
            self._notify(count)

    def _fail(self, file: PlannedFile, error: MdmError) -> None:
        self._results.put(self._failure(file, error))

    def _failure(self, file: PlannedFile, error: MdmError) -> FileResult:
        return FileResult(file.location.lfn, file.guid, self._directory / file.path, 0, error)
