"""Who may get where and do what. A path is a tuple of names, `()` the root; an answer is a reason, empty where it is allowed."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from mdm_catalog.rules.model import EntryKind, Replica, Target
from mdm_catalog.rules.value import MAX_LINKS
from mdm_service.identity.caller import Caller
from mdm_wire.path import names
from mdm_wire.permission import Permission

Path = tuple[str, ...]
OK = ""
ABSENT, MISSING = "ENTRY_NOT_FOUND", "PERMISSION_MISSING"
NOW = "now"  # a time that the service took from its clock


@dataclass
class AccessList:
    """An access list."""

    owner: str
    entries: dict[str, Permission]
    rev: int = 1


@dataclass
class Thing:
    """A directory, a file or a link."""

    kind: EntryKind
    acl: UUID
    default: UUID | None = None
    link: str | None = None
    guid: UUID | None = None
    size: int | None = None
    sha256: bytes | None = None
    comment: str = ""
    modified: datetime | str = NOW
    accessed: datetime | str | None = None
    rev: int = 1
    replicas: dict[str, Replica] = field(default_factory=dict)

    @property
    def directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind is EntryKind.DIRECTORY


@dataclass
class World:
    """The whole catalog."""

    acls: dict[UUID, AccessList]
    things: dict[Path, Thing]
    banned: set[str] = field(default_factory=set)

    def held(self, who: Caller, acl: UUID) -> Permission:
        """Return what a caller holds under a list."""
        if who.dn == self.acls[acl].owner:
            return Permission.ALL
        bits = Permission.NONE
        for principal, granted in self.acls[acl].entries.items():
            bits |= granted if principal in who.principals else Permission.NONE
        return bits

    def holds(self, who: Caller, path: Path, needed: Permission) -> bool:
        """Return whether a caller holds all of `needed` on what is there."""
        return self.held(who, self.things[path].acl) & needed == needed

    def visible(self, who: Caller, path: Path) -> bool:
        """Return whether a caller who can reach a place may know what is there."""
        return path == () or self.holds(who, path[:-1], Permission.LIST) or self.holds(who, path, Permission.GET)

    def way(self, who: Caller, path: Path) -> str:
        """Return why a caller does not get through every directory above."""
        for depth in range(len(path)):
            directory = path[:depth]
            if directory not in self.things or not self.things[directory].directory:
                return ABSENT
            if not self.holds(who, directory, Permission.TRAVERSE):
                return "TRAVERSE_FORBIDDEN" if self.visible(who, directory) else ABSENT
        return OK

    def lead(self, who: Caller, path: Path, *, last: bool = True) -> Path | str:
        """Return where a path leads when the links on it are followed, at its end too if `last`."""
        for _ in range(MAX_LINKS + 1):
            link = next((path[: d + 1] for d in range(len(path)) if self._is_link(path[: d + 1])), None)
            if link is None or (link == path and not last) or self.way(who, link) or not self.visible(who, link):
                return path
            path = (*self.target_of(link), *path[len(link) :])
        return "LINK_LOOP"

    def target_of(self, link: Path) -> Path:
        """Return the path that a link names, above the root being the root."""
        text = self.things[link].link or ""
        parts = [] if text.startswith("/") else list(link[:-1])
        for name in text.strip("/").split("/"):
            if name == "..":
                del parts[-1:]
            elif name:
                parts.append(name)
        return tuple(parts)

    def place(self, who: Caller, path: Path) -> Path | str:
        """Return where something of this path is to be made or taken away: links are followed in its directory's."""
        above = self.lead(who, path[:-1])
        return above if isinstance(above, str) else (*above, *path[-1:])

    def find(self, who: Caller, target: Target, *, follow: bool = True) -> Path | str:
        """Return the path of what a caller names, there or not, or why it leads nowhere."""
        if target.lfn is not None:
            return self.lead(who, names(target.lfn), last=follow)
        path = self.by_number(target)
        return ABSENT if path is None or self.way(who, path) else path

    def by_number(self, target: Target) -> Path | None:
        """Return the path of the file that a GUID or SURL names, whoever asks."""
        return self.by_guid(target.guid) if target.guid is not None else self.by_surl(target.surl or "")

    def by_guid(self, guid: UUID) -> Path | None:
        """Return the path of a file."""
        return next((path for path, thing in self.things.items() if thing.guid == guid), None)

    def by_surl(self, surl: str) -> Path | None:
        """Return the path of the file that has this replica."""
        return next((path for path, thing in self.things.items() if surl in thing.replicas), None)

    def below(self, path: Path) -> list[Path]:
        """Return the paths of everything below."""
        return [other for other in self.things if len(other) > len(path) and other[: len(path)] == path]

    def children(self, path: Path) -> list[Path]:
        """Return the paths of what is in a directory, in order."""
        return sorted((other for other in self.below(path) if len(other) == len(path) + 1), key=lambda other: other[-1].encode())

    def may(self, who: Caller, path: Path | str, needed: Permission) -> str:
        """Return why a caller may not do with what is there what takes all of `needed`."""
        if isinstance(path, str):
            return path
        if reason := self.way(who, path):
            return reason
        if path not in self.things:
            return ABSENT
        if self.holds(who, path, needed):
            return OK
        return MISSING if self.visible(who, path) else ABSENT

    def may_see(self, who: Caller, path: Path | str) -> str:
        """Return why a caller may not see what is there."""
        if isinstance(path, str):
            return path
        return self.way(who, path) or (OK if path in self.things and self.visible(who, path) else ABSENT)

    def may_with_file(self, who: Caller, path: Path | str, needed: Permission) -> str:
        """Return what `may` does, and that it is no file."""
        reason = self.may(who, path, needed)
        return reason or (OK if self.things[path].kind is EntryKind.FILE else "NOT_A_FILE")

    def may_make(self, who: Caller, path: Path) -> str:
        """Return why a caller may not make or remove a name in the directory above."""
        reason = self.way(who, path)
        if reason or self.holds(who, path[:-1], Permission.WRITE):
            return reason
        return "WRITE_FORBIDDEN" if self.visible(who, path[:-1]) else ABSENT

    def may_remove(self, who: Caller, path: Path | str) -> str:
        """Return why a caller may not take something out of its directory."""
        if path == ():
            return "ROOT_FIXED"
        reason = self.may(who, path, Permission.DELETE)
        if reason or not self.may_make(who, path):
            return reason
        return "WRITE_FORBIDDEN" if self.visible(who, path) else ABSENT

    def may_put(self, who: Caller, *acls: UUID | None) -> str:
        """Return why a caller may not put these lists on an entry."""
        controls = all(self.held(who, acl) & Permission.CHANGE_ACL for acl in acls if acl is not None)
        return OK if controls else "ACL_NOT_FOUND"

    def _is_link(self, path: Path) -> bool:
        return path in self.things and self.things[path].kind is EntryKind.SYMLINK
