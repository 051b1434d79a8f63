"""Use cases of the door: look at paths, open what is staged, know checksums."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from mdm_crypto import stream
from mdm_wire.errors import NO_SUCH_FILE, Exhausted, Forbidden, NotFound
from mdm_wire.permission import Permission
from mdm_wire.url import surl, surl_of_lfn

from mdm_dicom_srm.door.rules.copy import Copy, Known, KnownCopies, known_of
from mdm_dicom_srm.door.rules.on_demand import OnDemand, Waiting, open_copy
from mdm_dicom_srm.stage.rules.listing import MAX_LISTED, MAX_SURLS, Extent, Listed, Listing, Locality
from mdm_dicom_srm.stage.rules.port import CatalogEntry, PathKind
from mdm_dicom_srm.stage.rules.service import StagingService

SizesOf = Callable[[Sequence[UUID]], Mapping[UUID, int]]
ONLINE = frozenset({Locality.ONLINE, Locality.ONLINE_AND_NEARLINE})


@dataclass(frozen=True, slots=True)
class Resource:
    """A file or directory as a caller sees it; `size` is that of the ciphertext, None where it is not known before staging."""

    entry: CatalogEntry
    locality: Locality
    size: int | None = None
    known: Known | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is no file."""
        return self.entry.kind is PathKind.DIRECTORY

    @property
    def is_online(self) -> bool:
        """Whether a copy is staged."""
        return self.locality in ONLINE


class DoorService:
    """What callers of the door may see and read: the same as by gRPC."""

    def __init__(
        self, staging: StagingService, listing: Listing, on_demand: OnDemand, copies: KnownCopies, sizes: SizesOf, authority: str
    ) -> None:
        """`sizes` returns those of staged files, in bytes; `authority` is part of the site's SURLs."""
        self._staging = staging
        self._listing = listing
        self._on_demand = on_demand
        self._copies = copies
        self._sizes = sizes
        self._authority = authority

    def look(self, owner: str, lfn: str) -> Resource:
        """Return what a path names.

        Raises:
            NotFound: nothing that the caller may see. Unavailable: the catalog does not answer.
        """
        [found] = self.look_all(owner, [surl_of_lfn(self._authority, lfn)])
        return _there(found)

    def look_by_guid(self, owner: str, guid: UUID) -> Resource:
        """Return a file by its identifier; raises as `look`."""
        [found] = self.look_all(owner, [surl(self._authority, guid)])
        return _there(found)

    def look_all(self, owner: str, surls: Sequence[str]) -> list[Resource | None]:
        """Return what SURLs name, in the order asked; None for what the caller may not see.

        Raises:
            Unavailable: the catalog or the registry does not answer.
        """
        found: list[Listed] = []
        for start in range(0, len(surls), MAX_SURLS):
            for batch in self._listing.entries(owner, surls[start : start + MAX_SURLS], Extent(), _ignore):
                found += batch
        return self._resources(found)

    def below(self, owner: str, lfn: str) -> list[Resource]:
        """Return what is in a directory, in order of path.

        Raises:
            Exhausted: more than 10,000 entries. Unavailable: the catalog or the registry does not answer.
        """
        more = threading.Event()
        batches = self._listing.entries(owner, [surl_of_lfn(self._authority, lfn)], Extent(levels=1), more.set)
        found = [item for batch in batches for item in batch]
        if more.is_set():
            raise Exhausted("TOO_MANY_ENTRIES", f"The directory holds more than {MAX_LISTED:,} entries; list it by gRPC (mdm ls).")
        return [item for item in self._resources(found) if item is not None]

    def open(self, owner: str, resource: Resource) -> Copy | Waiting:
        """Return the staged file, opened, having it staged if need be; raises as `OnDemand.open`."""
        return self._on_demand.open(owner, self._readable(resource))

    def token(self, owner: str, resource: Resource) -> str | Waiting:
        """Return the token of a request that has the file pinned, having it staged if need be; raises as `OnDemand.token`."""
        return self._on_demand.token(owner, self._readable(resource))

    def open_turl(self, owner: str, token: str, guid: UUID) -> Copy:
        """Return a pinned file of the caller's request, opened; raises as `Reading.open`."""
        return open_copy(self._staging, owner, token, guid)

    def known(self, copy: Copy) -> Known:
        """Return the checksums of a copy; the first time it is read for them."""
        return known_of(copy, self._copies)

    def _readable(self, resource: Resource) -> UUID:
        if resource.entry.guid is None:
            raise Forbidden("NO_FILE", "That is not a file.")
        if not resource.entry.permissions & Permission.READ:
            raise Forbidden("MAY_NOT_READ", "You may see the file, but not read it.")
        return resource.entry.guid

    def _resources(self, found: Sequence[Listed]) -> list[Resource | None]:
        guids = [item.entry.guid for item in found if item.entry is not None and item.entry.guid is not None]
        known, sizes = self._copies.find(guids), self._sizes(guids)
        return [None if item.entry is None else _resource(item.entry, item.locality, known, sizes) for item in found]


def _resource(entry: CatalogEntry, locality: Locality, known: Mapping[UUID, Known], sizes: Mapping[UUID, int]) -> Resource:
    copy, size = None, None if entry.size is None else stream.ciphertext_size(entry.size)
    if entry.guid is not None:
        copy = known.get(entry.guid)
        size = sizes.get(entry.guid, copy.size if copy else size)
    return Resource(entry, locality, size, copy)


def _there(found: Resource | None) -> Resource:
    if found is None:
        raise NotFound("NO_SUCH_FILE", f"{NO_SUCH_FILE[0].upper()}{NO_SUCH_FILE[1:]}.")
    return found


def _ignore() -> None:
    return
