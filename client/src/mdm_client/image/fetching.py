"""Fetches files into memory: what is looked at first, then headers, then what may be looked at next."""

import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from mdm_crypto.stream import StreamError, decrypt, decrypt_stream
from mdm_wire.errors import Cancelled, Code, Corrupt, Exhausted, MdmError, NotFound
from mdm_wire.url import surl, surl_authority

from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import Location
from mdm_client.config import ClientConfig
from mdm_client.fetch.ciphertext import Ciphertext
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.staging import SiteStaging
from mdm_client.fetch.transfer import ONE_SHOT_BYTES
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_client.image.cache import MEMORY_TOO_SMALL, FileCache, SizedCache
from mdm_client.keystore.client import KeystoreClient
from mdm_client.name_syntax import Name

_FACT_BYTES = 64 * 1024 * 1024
_OVERHEAD = 1024

#: What is known of a file once it was here: an image's header, or a size.
Facts = TypeVar("Facts")


class Grid(Protocol):
    """What fetching needs of a client."""

    @property
    def config(self) -> ClientConfig:
        """Whose sites are asked."""

    @property
    def catalog(self) -> CatalogClient:
        """Where files are."""

    @property
    def keystores(self) -> KeystoreClient:
        """Their keys."""

    def srm(self, site: str = "") -> SrmClient:
        """A site's dicom-srm."""

    def at(self, site: str) -> "Grid":
        """The grid of a site that has one of its own."""


class Priority(IntEnum):
    """What comes first: an image that is waited for, a header, an image that may be wanted soon."""

    URGENT = 0
    HEADER = 1
    PREFETCH = 2


#: Files that one request to a site names: few where somebody waits, since pins and keys of all are asked for together.
_BATCHES = {Priority.URGENT: 8, Priority.HEADER: 256, Priority.PREFETCH: 64}


@dataclass(frozen=True)
class FileRef:
    """A file to fetch: its GUID, its LFN, the site whose record names it, and of `[sites]` the one whose grid has it, "" for none."""

    guid: UUID
    lfn: str
    site: str
    grid: str = ""


@dataclass
class _Wanted(Generic[Facts]):
    ref: FileRef
    priority: Priority
    number: int
    #: The facts, and the file itself where that is waited for: headers of a whole study must not hold its files.
    done: "Future[tuple[Facts, bytes | None]]" = field(default_factory=Future)


class Fetcher(Generic[Facts]):
    """Files by GUID, out of the cache or from their sites. Thread-safe."""

    def __init__(
        self,
        client: Grid,
        cache: FileCache,
        describe: Callable[[bytes], Facts],
        fact_bytes: Callable[[Facts], int] = lambda _: 0,
        *,
        jobs: int = 4,
        timeout: float = 120.0,
        batches: Mapping[Priority, int] = _BATCHES,
    ) -> None:
        """Start the threads. `timeout` is in seconds without progress.

        `describe` makes the facts of a file that are kept longer than the file, as long as there is room for their `fact_bytes`.
        `batches` says how many files one request names.
        """
        self._client = client
        self._cache = cache
        self._describe = describe
        self._timeout = timeout
        self._batches = batches
        self._facts: SizedCache[UUID, Facts] = SizedCache(_FACT_BYTES, lambda found: fact_bytes(found) + _OVERHEAD)
        self._condition = threading.Condition()
        self._waiting: dict[UUID, _Wanted[Facts]] = {}
        self._running: dict[UUID, _Wanted[Facts]] = {}
        self._count = 0
        self._cancellation = Cancellation()
        self._workers = ThreadPoolExecutor(jobs, thread_name_prefix="read")
        self._urgent_workers = ThreadPoolExecutor(jobs, thread_name_prefix="read-urgent")
        lanes = [Priority.URGENT, Priority.URGENT, Priority.PREFETCH, Priority.PREFETCH]
        self._threads = [threading.Thread(target=self._lane, args=(last,), daemon=True, name="fetch-lane") for last in lanes]
        for thread in self._threads:
            thread.start()

    def header(self, guid: UUID) -> Facts | None:
        """Return what is known of a file without fetching it."""
        return self._facts.get(guid)

    def cached(self, ref: FileRef) -> tuple[Facts, bytes] | None:
        """Return a file that is in the cache; None if it is not."""
        data = self._cache.get(ref.guid)
        if data is None:
            return None
        facts = self._facts.get(ref.guid)
        return self._remember(ref, data) if facts is None else facts, data

    def file(self, ref: FileRef) -> tuple[Facts, bytes]:
        """Return a file, fetched before all others.

        Raises:
            MdmError: why it cannot be had.
        """
        while True:
            found = self.cached(ref)
            if found is not None:
                return found
            facts, data = self.want([ref], Priority.URGENT)[ref.guid].result()
            if data is not None:
                return facts, data

    def headers(self, refs: Sequence[FileRef]) -> Mapping[UUID, Facts | MdmError]:
        """Return what is known of files, fetched where they must be; those that cannot be had have their error."""
        found: dict[UUID, Facts | MdmError] = {}
        missing = []
        for ref in refs:
            known = self._facts.get(ref.guid)
            if known is not None:
                found[ref.guid] = known
            else:
                missing.append(ref)
        for guid, done in self.want(missing, Priority.HEADER).items():
            try:
                found[guid] = done.result()[0]
            except MdmError as error:
                found[guid] = error
        return found

    def prefetch(self, refs: Iterable[FileRef]) -> None:
        """Fetch these in this order when nothing else is to do; what was to be prefetched before is forgotten."""
        with self._condition:
            for guid in [guid for guid, wanted in self._waiting.items() if wanted.priority == Priority.PREFETCH]:
                self._waiting.pop(guid).done.cancel()
        self.want([ref for ref in refs if ref.guid not in self._cache], Priority.PREFETCH)

    def want(self, refs: Sequence[FileRef], priority: Priority) -> "dict[UUID, Future[tuple[Facts, bytes | None]]]":
        """Have files fetched; one that waits already gets the higher priority of both."""
        answers = {}
        with self._condition:
            for ref in refs:
                wanted = self._running.get(ref.guid) or self._waiting.get(ref.guid)
                if wanted is None:
                    self._count += 1
                    wanted = self._waiting[ref.guid] = _Wanted(ref, priority, self._count)
                elif priority < wanted.priority:
                    wanted.priority = priority
                answers[ref.guid] = wanted.done
            self._condition.notify_all()
        return answers

    def close(self) -> None:
        """Stop everything; what waits fails."""
        self._cancellation.stop()
        with self._condition:
            for wanted in [*self._waiting.values(), *self._running.values()]:
                _fail(wanted, Cancelled("CANCELLED", "given up: nobody reads any more"))
            self._waiting.clear()
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(5.0)
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._urgent_workers.shutdown(wait=True, cancel_futures=True)
        self._facts.clear()

    def _lane(self, last: Priority) -> None:
        """Fetch batch after batch of what has at least the priority `last`."""
        while not self._cancellation.stopped:
            batch = self._next(last)
            if not batch:
                continue
            try:
                self._fetch(batch)
            except MdmError as error:
                self._settle(batch, error)
            except Exception as error:  # a defect: nobody must wait for ever
                self._settle(batch, MdmError("CLIENT_DEFECT", f"fetching failed: {type(error).__name__}", code=Code.INTERNAL))
            finally:
                self._settle(batch, Cancelled("CANCELLED", "given up"))

    def _next(self, last: Priority) -> list[_Wanted[Facts]]:
        """Wait for files and take those of the highest priority and of one grid, oldest first."""
        with self._condition:
            while not self._cancellation.stopped:
                ready = [wanted for wanted in self._waiting.values() if wanted.priority <= last]
                if ready:
                    first = min(wanted.priority for wanted in ready)
                    ordered = sorted((w for w in ready if w.priority == first), key=lambda w: w.number)
                    batch = [w for w in ordered if w.ref.grid == ordered[0].ref.grid][: self._batches[first]]
                    for wanted in batch:
                        self._running[wanted.ref.guid] = self._waiting.pop(wanted.ref.guid)
                    return batch
                self._condition.wait()
        return []

    def _settle(self, batch: Sequence[_Wanted[Facts]], error: MdmError) -> None:
        for wanted in batch:
            _fail(wanted, error)
            self._leave(wanted)

    def _leave(self, wanted: _Wanted[Facts]) -> None:
        with self._condition:
            if self._running.get(wanted.ref.guid) is wanted:
                del self._running[wanted.ref.guid]

    def _fetch(self, batch: Sequence[_Wanted[Facts]]) -> None:
        """Stage, read and decrypt files of one grid, and settle each as it arrives."""
        wanted = {item.ref.guid: item for item in batch}
        grid = self._client.at(batch[0].ref.grid) if batch[0].ref.grid else self._client
        keys = (self._urgent_workers if batch[0].priority == Priority.URGENT else self._workers).submit(
            grid.keystores.get_keys, list(wanted)
        )
        sites: dict[str, dict[str, PlannedFile]] = {}
        for item, answer in zip(batch, _locate(grid, [item.ref for item in batch]), strict=True):
            if isinstance(answer, MdmError):
                _fail(item, answer)
            else:
                sites.setdefault(surl_authority(answer.surls[0]), {})[answer.surls[0]] = PlannedFile(answer, "")
        work = _Round(self, wanted, keys)
        workers = self._urgent_workers if batch[0].priority == Priority.URGENT else self._workers
        for site, files in sites.items():
            staging = SiteStaging(grid.srm(site), files, workers.submit, work.receive, work.fail, Clock(self._timeout), self._cancellation)
            staging.run()

    def _remember(self, ref: FileRef, data: bytes) -> Facts:
        facts = self._describe(data)
        self._facts.put(ref.guid, facts)
        return facts

    def read(self, wanted: _Wanted[Facts], key: bytes, source: Ciphertext) -> None:
        """Read a pinned file, decrypt it, keep it, and settle it."""
        guid = wanted.ref.guid
        with self._cache.reserving(source.size):
            try:
                if source.size <= ONE_SHOT_BYTES:
                    data = decrypt(key, guid.bytes, source.read_all())
                else:
                    written = io.BytesIO()
                    decrypt_stream(key, guid.bytes, source, written)
                    data = written.getvalue()
            except StreamError as error:
                raise Corrupt("CIPHERTEXT_NOT_AUTHENTIC", f"{guid}: what the site sent is not what was encrypted for this file") from error
            facts = self._remember(wanted.ref, data)
            self._cache.put(guid, data)
        self._leave(wanted)
        if not wanted.done.done():
            wanted.done.set_result((facts, data if wanted.priority == Priority.URGENT else None))


class _Round(Generic[Facts]):
    """One batch: its keys, and what becomes of each file."""

    def __init__(
        self, fetcher: Fetcher[Facts], wanted: Mapping[UUID, _Wanted[Facts]], keys: "Future[dict[UUID, bytes | MdmError]]"
    ) -> None:
        self._fetcher = fetcher
        self._wanted = wanted
        self._keys = keys

    def receive(self, file: PlannedFile, source: Ciphertext) -> None:
        """Fetch a pinned file; raises MdmError where the site may be asked again."""
        wanted = self._wanted[file.guid]
        try:
            key = self._keys.result().get(file.guid) or NotFound("KEY_NOT_FOUND", f"keystores: no key for {file.guid}")
        except MdmError as error:
            key = error
        if isinstance(key, MdmError):
            self.fail(file, key)
            return
        try:
            self._fetcher.read(wanted, key, source)
        except (Corrupt, Exhausted) as error:
            if isinstance(error, Exhausted) and error.reason != MEMORY_TOO_SMALL:
                raise
            self.fail(file, error)

    def fail(self, file: PlannedFile, error: MdmError) -> None:
        """Settle a file that cannot be had."""
        _fail(self._wanted[file.guid], error)


def _fail(wanted: "_Wanted[Facts]", error: MdmError) -> None:
    if not wanted.done.done():
        wanted.done.set_exception(error)


def _locate(grid: Grid, refs: Sequence[FileRef]) -> list[Location | MdmError]:
    """Return where files are; of a file that the catalog of its configuration does not know, at the site whose record names it."""
    answers: list[Location | MdmError] = []
    known = grid.config.srm
    for ref, answer in zip(refs, grid.catalog.resolve([Name(guid=ref.guid) for ref in refs]), strict=True):
        if isinstance(answer, NotFound) and ref.site in known and len(known) > 1:
            answers.append(Location(ref.lfn, ref.guid, (surl(ref.site, ref.guid),), None))
        elif isinstance(answer, MdmError):
            answers.append(answer)
        else:
            usable = [place for place in answer.surls if surl_authority(place) in known]
            lost = NotFound("NO_REPLICA", f"{ref.lfn}: no available copy at a site of the configuration")
            answers.append(Location(answer.lfn, answer.guid, tuple(usable), answer.size) if usable else lost)
    return answers
