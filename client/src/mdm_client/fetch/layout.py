"""Paths of fetched files: below the output directory, never outside it, and distinct on every file system."""

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from uuid import UUID

from mdm_wire.errors import Invalid
from mdm_wire.path import MAX_NAME_BYTES

from mdm_client.name_syntax import normalise_lfn

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: devices, whatever follows the first dot, and characters.
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789¹²³")}
)
_WINDOWS_CHARACTERS = frozenset('<>:"\\|?*')


class Layout:
    """Gives each file a path that differs from all others, also where a file system ignores case or Unicode's forms."""

    def __init__(self, roots: Sequence[str], several: bool) -> None:
        """Lay out the files below `roots`; if there are `several`, each has a directory of its own."""
        self._labels = root_labels(roots) if several else dict.fromkeys(roots, "")
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def place(self, lfn: str, root: str, guid: UUID) -> str:
        """Return the path, relative and with `/`, of the file that was asked for as `lfn`, below `root` if that is not empty.

        If another file has that path, the last name gets the GUID, and a number where that is not enough.

        Raises:
            Invalid: LFN_MALFORMED, LFN_OUTSIDE, LFN_NOT_LOCAL: the name, which comes from a server, cannot be the name of a local file.
        """
        wanted = self._relative(normalise_lfn(lfn), root, guid)
        path, number = wanted, 1
        while self._taken(path):
            mark = f"~{guid}" if number == 1 else f"~{guid}~{number}"
            # Below a file there can be no other path.
            path = _marked(wanted if self._free_above(wanted) else wanted.rpartition("/")[2], mark)
            number += 1
        self._files.add(folded(path))
        self._directories.update(_above(path))
        return path

    def _relative(self, lfn: str, root: str, guid: UUID) -> str:
        if lfn == "/":
            raise Invalid("LFN_MALFORMED", f"{guid}: the catalog has no file name for it")
        prefix = "/" if root == "/" else f"{root}/"
        if root and not lfn.startswith(prefix):
            raise Invalid("LFN_OUTSIDE", f"{lfn}: the catalog lists it below {root}, but its path is elsewhere")
        below = lfn.removeprefix(prefix) if root else lfn.rpartition("/")[2]
        path = "/".join(part for part in (self._labels.get(root, ""), below) if part)
        check_local(path)
        return path

    def _taken(self, path: str) -> bool:
        name = folded(path)
        return name in self._files or name in self._directories or not self._free_above(path)

    def _free_above(self, path: str) -> bool:
        return self._files.isdisjoint(_above(path))


def root_labels(roots: Sequence[str]) -> dict[str, str]:
    """Return a directory for each root: as many of its last names as are needed to distinguish it from the others."""
    names = {root: root.strip("/").split("/") for root in roots}
    lengths = dict.fromkeys(roots, 1)
    while True:
        labels = {root: "/".join(names[root][-length:]) for root, length in lengths.items()}
        same: dict[str, list[str]] = {}
        for root, label in labels.items():
            same.setdefault(folded(label), []).append(root)
        longer = [root for group in same.values() if len(group) > 1 for root in group if lengths[root] < len(names[root])]
        if not longer:
            return labels
        for root in longer:
            lengths[root] += 1


def check_local(path: str, windows: bool = os.name == "nt") -> None:
    """Check that a relative path does not leave its directory, and that each name in it can be that of a file.

    Raises:
        Invalid: LFN_NOT_LOCAL.
    """
    for name in path.split("/"):
        bad = name in ("", ".", "..") or "\0" in name
        if windows:
            device = name.split(".")[0].rstrip(" ").casefold() in _WINDOWS_DEVICES
            bad = bad or device or name.endswith((" ", ".")) or not _WINDOWS_CHARACTERS.isdisjoint(name)
        if bad:
            raise Invalid("LFN_NOT_LOCAL", f"{path}: cannot be the name of a file on this machine")


def folded(path: str) -> str:
    """Return a key that is equal for paths that some file system considers equal: without case and Unicode's forms."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _above(path: str) -> tuple[str, ...]:
    """Return the directories above a relative path, folded."""
    return _with_above(path.rpartition("/")[0])


@lru_cache(maxsize=1024)
def _with_above(directory: str) -> tuple[str, ...]:
    return (*_above(directory), folded(directory)) if directory else ()


def _marked(path: str, mark: str) -> str:
    """Return the path with a mark after the stem of its last name; a name that would be too long is cut."""
    pure = PurePosixPath(path)
    room = MAX_NAME_BYTES - len(os.fsencode(mark + pure.suffix))
    stem = pure.stem.encode()[: max(room, 0)].decode(errors="ignore")
    return str(pure.with_name(f"{stem}{mark}{pure.suffix if room > 0 else ''}"))
