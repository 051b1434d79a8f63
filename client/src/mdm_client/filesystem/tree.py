"""The catalog's tree as a file system sees it: entries, remembered for a few seconds."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mdm_wire.errors import FailedPrecondition, Forbidden, MdmError, NotFound
from mdm_wire.path import ROOT, Lfn, join, names, parse, split

from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import SYMLINK, Entry
from mdm_client.image.cache import SizedCache
from mdm_client.metadata.client import MetadataClient
from mdm_client.name_syntax import Name

#: Entries that are remembered, of all directories together.
_MAX_ENTRIES = 500_000
_MAX_STATED = 10_000


@dataclass(frozen=True)
class _Listing:
    """A directory as it was at a time of `time.monotonic`: entries by name, in the catalog's order."""

    entries: Mapping[str, Entry]
    time: float


@dataclass(frozen=True)
class _Stated:
    """One entry as it was at a time: the kernel asks for the directories above a file with each access to it."""

    entry: Entry
    time: float


class Tree:
    """Entries by LFN. What a directory held is believed for `seconds`; 0: never. Thread-safe."""

    def __init__(self, catalog: CatalogClient, seconds: float, top_names: Callable[[], Iterable[str]] = tuple) -> None:
        """Take the catalog, and what knows names in its root for users who may not list that (see `names_of_collections`)."""
        self._catalog = catalog
        self._seconds = seconds
        self._top_names = top_names
        self._stated: SizedCache[str, _Stated] = SizedCache(_MAX_STATED, lambda _: 1)
        self._listings: SizedCache[str, _Listing] = SizedCache(_MAX_ENTRIES, lambda listing: 1 + len(listing.entries))

    def children(self, lfn: str, *, fresh: bool = False) -> Mapping[str, Entry]:
        """Return the entries of a directory by name; links are themselves. With `fresh`, the catalog is asked in any case.

        Raises:
            MdmError: NotFound; FailedPrecondition: NOT_A_DIRECTORY; Invalid: no LFN; the catalog does not answer.
        """
        path = parse(lfn)
        known = None if fresh else self.known(path)
        if known is not None:
            return known
        try:
            listed = list(self._catalog.list_entries(path))
        except Forbidden:
            if path != ROOT:
                raise
            stated = self._catalog.stat([Name(lfn=join(ROOT, name)) for name in sorted(set(self._top_names()))], follow=False)
            listed = [entry for entry in stated if not isinstance(entry, MdmError)]
        found = {split(Lfn(entry.lfn))[1]: entry for entry in listed}
        if len(found) == 1 and next(iter(found.values())).lfn == path != "/":  # the catalog lists a file as itself
            raise FailedPrecondition("NOT_A_DIRECTORY", f"{path}: not a directory")
        self._listings.put(path, _Listing(found, time.monotonic()))
        return found

    def known(self, lfn: str) -> Mapping[str, Entry] | None:
        """Return the entries of a directory that was listed lately, without asking anybody; else None."""
        listing = self._listings.get(lfn)
        return listing.entries if listing is not None and time.monotonic() - listing.time < self._seconds else None

    def entry(self, lfn: str) -> Entry:
        """Return an entry; a link is itself.

        Raises:
            MdmError: NotFound; Invalid: no LFN; the catalog does not answer.
        """
        path = parse(lfn)
        above, name = split(path)
        siblings = self.known(above) if name else None
        if siblings is not None and (name in siblings or above != ROOT):
            if name not in siblings:
                raise NotFound("NOT_FOUND", f"{path}: no such file, or not for you")
            return siblings[name]
        stated = self._stated.get(path)
        if stated is not None and time.monotonic() - stated.time < self._seconds:
            return stated.entry
        [found] = self._catalog.stat([Name(lfn=path)], follow=False)
        entry = _or_raise(found)
        self._stated.put(path, _Stated(entry, time.monotonic()))
        return entry

    def followed(self, entries: Sequence[Entry]) -> list[Entry | MdmError]:
        """Return the entries, in place of each link what it leads to, under the link's name; or why it leads nowhere."""
        links = [entry.lfn for entry in entries if entry.kind == SYMLINK]
        found = dict(zip(links, self._catalog.stat([Name(lfn=lfn) for lfn in links]) if links else [], strict=True))
        answers: list[Entry | MdmError] = []
        for entry in entries:
            target = found.get(entry.lfn, entry)
            answers.append(target if isinstance(target, MdmError) else replace(target, lfn=entry.lfn))
        return answers

    def targets(self, lfns: Sequence[str]) -> list[Entry | MdmError]:
        """Return what names lead to, links followed, each under the name that was asked for; what was listed lately is not asked for."""
        answers: dict[str, Entry | MdmError] = {}
        for lfn in lfns:
            try:
                path = parse(lfn)
                above, name = split(path)
                known = self.known(above) if name else None
                if known is not None and name in known and known[name].kind != SYMLINK:
                    answers[lfn] = known[name]
            except MdmError as error:
                answers[lfn] = error
        missing = [lfn for lfn in dict.fromkeys(lfns) if lfn not in answers]
        for lfn, found in zip(missing, self._catalog.stat([Name(lfn=lfn) for lfn in missing]) if missing else [], strict=True):
            answers[lfn] = found if isinstance(found, MdmError) else replace(found, lfn=lfn)
        return [answers[lfn] for lfn in lfns]

    def target(self, lfn: str) -> Entry:
        """Return what a name leads to, as `targets`; raises MdmError."""
        return _or_raise(self.targets([lfn])[0])

    def forget(self) -> None:
        """Ask the catalog anew for everything."""
        self._listings.clear()
        self._stated.clear()


def names_of_collections(metadata: MetadataClient) -> Iterable[str]:
    """Return the first names of the collections that the user may see: those of VOs, which are directories of the catalog, too."""
    return {names(parse(collection.path))[0] for collection in metadata.collections.walk(ROOT)}


def _or_raise(found: Entry | MdmError) -> Entry:
    if isinstance(found, MdmError):
        raise found
    return found
