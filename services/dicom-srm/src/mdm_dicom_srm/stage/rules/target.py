"""From SURLs to files: by identifier, by name, and what is in directories, as the catalog lets a caller see it."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from uuid import UUID

from mdm_wire.errors import Forbidden, NotFound
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission
from mdm_wire.url import guid_of_surl, lfn_of_surl, surl_of_lfn

from mdm_dicom_srm.stage.rules.model import MAX_FILES, StagedFile, State, refused_file
from mdm_dicom_srm.stage.rules.port import Catalog, CatalogEntry, PathKind

#: What a SURL of the site names: a file by its identifier, something by its name, or nothing.
Target = UUID | Lfn | None


class SurlParser:
    """Reads SURLs of one site, whose names in the catalog are below `root`."""

    def __init__(self, authority: str, root: str) -> None:
        self.authority = authority
        self._root = root

    def parse(self, text: str) -> Target:
        """Return what a SURL names; a name outside of the site's directory is nothing of ours."""
        guid = guid_of_surl(self.authority, text)
        if guid is not None:
            return guid
        lfn = lfn_of_surl(self.authority, text)
        return lfn if lfn is not None and (lfn == self._root or lfn.startswith(f"{self._root}/")) else None

    def surl(self, lfn: str) -> str:
        """Return the SURL by name of a path."""
        return surl_of_lfn(self.authority, lfn)


class TargetResolver:
    """Finds the files that a request is for."""

    def __init__(self, surls: SurlParser, catalog: Catalog) -> None:
        self._surls = surls
        self._catalog = catalog

    def files(self, owner: str, texts: Sequence[str], levels: int, readable: Callable[[Iterable[UUID]], set[UUID]]) -> list[StagedFile]:
        """Return the files of SURLs in the order given: queued, or refused at once. One bad SURL refuses no other.

        A directory stands for the files in it, down to `levels` (0: all), in order of path; links in it are left out. `readable` returns
        which files `owner` may read. A SURL given twice is INVALID_REQUEST, a directory of more files than a request may still have
        TOO_MANY_RESULTS; a file that two directories hold is there once.

        Raises:
            Unavailable: the catalog does not answer.
        """
        targets = [self._surls.parse(text) for text in texts]
        names = list(dict.fromkeys(target for target in targets if isinstance(target, str)))
        entries = dict(zip(names, self._catalog.stat(owner, names), strict=True)) if names else {}
        files: list[StagedFile] = []
        seen: set[UUID] = set()
        room = MAX_FILES - len(texts)
        for text, target in zip(texts, targets, strict=True):
            entry = entries.get(target) if isinstance(target, str) else None
            if entry is not None and entry.kind is PathKind.DIRECTORY:
                found = self._directory(owner, text, entry.lfn, levels, room)
                found = [file for file in found if file.guid is None or file.guid not in seen]
                room -= len(found)
            else:
                found = [_repeated(text) if (file := _file(text, target, entry)).guid in seen else file]
            seen.update(file.guid for file in found if file.guid is not None)
            files += found
        allowed = readable(file.guid for file in files if file.guid is not None)
        return [file if file.guid is None or file.guid in allowed else refused_file(file.surl) for file in files]

    def _directory(self, owner: str, text: str, lfn: str, levels: int, room: int) -> list[StagedFile]:
        try:
            found = list(islice(self._files_below(owner, lfn, levels), room + 1))
        except NotFound:
            return [refused_file(text)]
        except Forbidden:
            return [refused_file(text, State.AUTHORIZATION_FAILURE, "MAY_NOT_LIST")]
        if len(found) > room:
            return [refused_file(text, State.TOO_MANY_RESULTS, "TOO_MANY_FILES")]
        return found or [refused_file(text, State.INVALID_PATH, "NO_FILES")]

    def _files_below(self, owner: str, lfn: str, levels: int) -> Iterable[StagedFile]:
        for entry in self._catalog.below(owner, lfn, levels):
            if entry.kind is PathKind.FILE:
                yield _named(self._surls.surl(entry.lfn), entry)


def _file(text: str, target: Target, entry: CatalogEntry | None) -> StagedFile:
    if isinstance(target, UUID):
        return StagedFile(text, target, State.REQUEST_QUEUED)
    return refused_file(text) if entry is None or entry.kind is not PathKind.FILE else _named(text, entry)


def _named(text: str, entry: CatalogEntry) -> StagedFile:
    """Return the file of a name; that it is there is no secret to whoever sees the name."""
    if not entry.permissions & Permission.READ:
        return refused_file(text, State.AUTHORIZATION_FAILURE, "MAY_NOT_READ")
    return StagedFile(text, entry.guid, State.REQUEST_QUEUED)


def _repeated(text: str) -> StagedFile:
    return refused_file(text, State.INVALID_REQUEST, "REPEATED_SURL")
