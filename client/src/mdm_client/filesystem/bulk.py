"""Many whole files at once: one request to each site, whose stream brings them."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from mdm_crypto.stream import StreamError, decrypt
from mdm_wire.errors import Corrupt, MdmError, Unavailable

from mdm_client.catalog.model import Entry, Location
from mdm_client.fetch.ciphertext import Ciphertext
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.staging import SiteStaging
from mdm_client.fetch.transfer import KeyRing
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_client.filesystem.ranged import usable_replica
from mdm_client.image.fetching import Grid
from mdm_client.name_syntax import Name

_JOBS = 4


def read_whole(grid: Grid, entries: Sequence[Entry], timeout: float, cancellation: Cancellation) -> dict[UUID, bytes | MdmError]:
    """Return the plaintext of files by GUID, or why each cannot be had. `timeout` is in seconds without progress.

    All of it is in memory at once: ask for as much as there is room for.
    """
    entries = [entry for entry in entries if entry.guid]
    if not entries:
        return {}
    keys = KeyRing(grid.keystores, cancellation, timeout)
    keys.request([entry.guid for entry in entries if entry.guid])
    with ThreadPoolExecutor(_JOBS, thread_name_prefix="bulk") as workers:
        try:
            return _Reading(grid, keys, workers, timeout, cancellation).read(entries)
        finally:
            keys.close()


class _Reading:
    """One reading of many files."""

    def __init__(self, grid: Grid, keys: KeyRing, workers: ThreadPoolExecutor, timeout: float, cancellation: Cancellation) -> None:
        self._grid = grid
        self._keys = keys
        self._workers = workers
        self._clock = Clock(timeout)
        self._cancellation = cancellation
        self._found: dict[UUID, bytes | MdmError] = {}

    def read(self, entries: Sequence[Entry]) -> dict[UUID, bytes | MdmError]:
        sites = self._by_site(entries)
        stagings = [self._staging(site, files) for site, files in sites.items()]
        threads = [threading.Thread(target=staging.run, daemon=True, name="bulk-site") for staging in stagings[1:]]
        for thread in threads:
            thread.start()
        for staging in stagings[:1]:
            staging.run()
        for thread in threads:
            thread.join()
        lost = Unavailable("NOT_READ", "given up before it came")
        return {entry.guid: self._found.get(entry.guid, lost) for entry in entries if entry.guid}

    def _staging(self, site: str, files: Mapping[str, PlannedFile]) -> SiteStaging:
        start, clock, cancellation = self._workers.submit, self._clock, self._cancellation
        return SiteStaging(self._grid.srm(site), files, start, self._take, self._fail, clock, cancellation, self._received)

    def _by_site(self, entries: Sequence[Entry]) -> Mapping[str, dict[str, PlannedFile]]:
        sites: dict[str, dict[str, PlannedFile]] = {}
        for entry, place in zip(entries, self._grid.catalog.resolve([Name(guid=entry.guid) for entry in entries]), strict=True):
            try:
                if isinstance(place, MdmError):
                    raise place
                surl, site = usable_replica(place, self._grid.config.srm)
            except MdmError as error:
                if entry.guid:
                    self._found[entry.guid] = error
            else:
                sites.setdefault(site, {})[surl] = PlannedFile(Location(entry.lfn, place.guid, place.surls, place.size), "")
        return sites

    def _take(self, file: PlannedFile, source: Ciphertext) -> None:
        """Decrypt a file; raises MdmError where the site may be asked again."""
        try:
            self._found[file.guid] = decrypt(self._keys.key(file.guid), file.guid.bytes, source.read_all())
        except StreamError:
            message = f"{file.guid}: what the site sent is not what was encrypted for this file"
            self._found[file.guid] = Corrupt("CIPHERTEXT_NOT_AUTHENTIC", message)

    def _fail(self, file: PlannedFile, error: MdmError) -> None:
        self._found[file.guid] = error

    def _received(self, _: int) -> None:
        self._clock.tick()
