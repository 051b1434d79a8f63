"""Use cases of callers who look: what is there, where its bytes are, and what they may do with it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from uuid import UUID

from mdm_wire.errors import Forbidden, Invalid, NotFound
from mdm_wire.permission import Permission

from mdm_dicom_srm.stage.rules.model import MAX_FILES
from mdm_dicom_srm.stage.rules.port import Catalog, CatalogEntry, PathKind, Sources, Spool
from mdm_dicom_srm.stage.rules.request import Requests
from mdm_dicom_srm.stage.rules.target import SurlParser

MAX_SURLS = 1_000
MAX_LISTED = 10_000
#: Entries that a listing may leave out and give in all, so that a far offset costs no more than this.
MAX_REACH = 90_000
_BATCH = 1_000


class Locality(StrEnum):
    """Where the bytes of a file are, named as in SRM v2.2."""

    ONLINE = "ONLINE"
    NEARLINE = "NEARLINE"
    ONLINE_AND_NEARLINE = "ONLINE_AND_NEARLINE"
    LOST = "LOST"
    NONE = "NONE"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a listing, None where a SURL names nothing that the caller may see; `pin_until` is 0 without a pin of the caller's."""

    surl: str
    entry: CatalogEntry | None
    locality: Locality = Locality.NONE
    pin_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Extent:
    """Which part of a listing is wanted: `levels` below directories (0: these themselves, None: all), after `offset`, at most `count`."""

    levels: int | None = 0
    offset: int = 0
    count: int = 0

    def check(self) -> "Extent":
        """Return the extent with the count that counts.

        Raises:
            Invalid: a number below zero, or a listing that reaches too far.
        """
        if min(self.levels or 0, self.offset, self.count) < 0:
            raise Invalid("BAD_EXTENT", "levels, offset and count cannot be negative.", fields={"levels": "or another is negative"})
        if self.offset > MAX_REACH:
            raise Invalid("BAD_EXTENT", f"offset is at most {MAX_REACH}: list the directories below.", fields={"offset": "too large"})
        return Extent(self.levels, self.offset, min(self.count or MAX_LISTED, MAX_LISTED))


class Listing:
    """Shows the site's part of the catalog, each caller what the catalog lets it see."""

    def __init__(self, surls: SurlParser, catalog: Catalog, spool: Spool, requests: Requests, sources: Sources) -> None:
        self._surls = surls
        self._catalog = catalog
        self._spool = spool
        self._requests = requests
        self._sources = sources

    def entries(self, owner: str, texts: Sequence[str], extent: Extent, more: Callable[[], None]) -> Iterator[list[Listed]]:
        """Yield entries in batches, in the order of the SURLs and below each in order of path; `more` is called where some are left.

        Raises:
            Invalid: no SURLs, too many, or an extent that cannot be.
            Unavailable: the catalog or the registry does not answer.
        """
        if not 0 < len(texts) <= MAX_SURLS:
            raise Invalid("BAD_BATCH", f"Name 1 to {MAX_SURLS} files or directories.", fields={"surls": "too few or too many"})
        part = extent.check()
        found = islice(self._found(owner, texts, part.levels), part.offset, None)
        left = part.count
        while left and (batch := list(islice(found, min(left, _BATCH)))):
            left -= len(batch)
            yield self._located(owner, batch)
        if next(found, None) is not None:
            more()

    def permissions(self, owner: str, texts: Sequence[str]) -> list[Permission | None]:
        """Return what a caller may do with files and directories, in the order asked; None for what it may not see.

        Raises:
            Invalid: no SURLs, or too many. Unavailable: the catalog does not answer.
        """
        if not 0 < len(texts) <= MAX_FILES:
            raise Invalid("BAD_BATCH", f"Name 1 to {MAX_FILES} files or directories.", fields={"surls": "too few or too many"})
        return [None if entry is None else entry.permissions for entry in self._stat(owner, texts)]

    def _localities(self, guids: Sequence[UUID], pinned: Iterable[UUID]) -> dict[UUID, Locality]:
        """Return where the bytes of files are; `pinned` are those that some instance has pinned."""
        registered, online = self._sources.registrations.locators_of(guids), self._spool.holds(guids).union(pinned)
        unregistered = [guid for guid in guids if guid not in registered]
        kept = self._sources.kept.sizes(unregistered) if unregistered else {}
        found: dict[UUID, Locality] = {}
        for guid in guids:
            located = registered.get(guid)
            if guid in kept:
                found[guid] = Locality.ONLINE
            elif guid not in registered:
                found[guid] = Locality.LOST
            elif located is None:
                found[guid] = Locality.UNAVAILABLE
            else:
                answers = self._sources.pacs_answers(located.locator.pacs)
                staged, only = (Locality.ONLINE_AND_NEARLINE, Locality.ONLINE), (Locality.NEARLINE, Locality.UNAVAILABLE)
                found[guid] = (staged if guid in online else only)[0 if answers else 1]
        return found

    def _found(self, owner: str, texts: Sequence[str], levels: int | None) -> Iterator[Listed]:
        for text, entry in zip(texts, self._stat(owner, texts), strict=True):
            if entry is None or levels == 0 or entry.kind is not PathKind.DIRECTORY:
                yield Listed(text, entry)
                continue
            try:
                for below in self._catalog.below(owner, entry.lfn, levels or 0):
                    yield Listed(self._surls.surl(below.lfn), below)
            except (NotFound, Forbidden):
                yield Listed(text, None)

    def _stat(self, owner: str, texts: Sequence[str]) -> list[CatalogEntry | None]:
        targets = {text: target for text in texts if (target := self._surls.parse(text)) is not None}
        found = dict(zip(targets, self._catalog.stat(owner, list(targets.values())), strict=True)) if targets else {}
        return [found.get(text) for text in texts]

    def _located(self, owner: str, batch: Sequence[Listed]) -> list[Listed]:
        guids = [item.entry.guid for item in batch if item.entry is not None and item.entry.guid is not None]
        pins = self._requests.pins(owner, guids)
        places = self._localities(guids, pins)
        return [
            Listed(item.surl, item.entry, places[guid], pins.get(guid, 0.0))
            if item.entry is not None and (guid := item.entry.guid) is not None
            else item
            for item in batch
        ]
