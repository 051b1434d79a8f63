"""Making, moving, removing and changing entries."""

from collections.abc import Sequence
from dataclasses import replace

from mdm_catalog.rules.model import (
    AclAssignment,
    EntryKind,
    FileChange,
    NewDirectory,
    NewFile,
    NewLink,
    Removal,
    Renaming,
    Target,
)
from mdm_service.identity.caller import Caller
from mdm_wire.path import names
from mdm_wire.permission import Permission

from services.catalog.tests.world.access import NOW, OK, Path, Thing, World

TAKEN = "LFN_TAKEN"


def make_directory(world: World, who: Caller, wanted: NewDirectory, *, parents: bool = False) -> str:
    """Make a directory, with `parents` the missing ones above it too."""
    path = world.place(who, names(wanted.lfn))
    if isinstance(path, str):
        return path
    if path == ():
        return OK if parents else TAKEN
    missing = [path[:depth] for depth in range(1, len(path)) if not (path[:depth] in world.things and world.things[path[:depth]].directory)]
    for above in missing if parents else ():
        if reason := _make_one(world, who, above, NewDirectory(wanted.lfn), again=False):
            return reason
    return _make_one(world, who, path, wanted, again=parents)


def _make_one(world: World, who: Caller, path: Path, wanted: NewDirectory, *, again: bool) -> str:
    if reason := world.way(who, path):
        return reason
    refused = world.may_make(who, path)
    if path in world.things and (not refused or world.visible(who, path)):
        return OK if again and world.things[path].directory else TAKEN
    refused = refused or world.may_put(who, wanted.acl_id, wanted.default_acl_id)
    if not refused:
        acl = wanted.acl_id or world.things[path[:-1]].default
        world.things[path] = Thing(EntryKind.DIRECTORY, acl, wanted.default_acl_id or acl)
    return refused


def register(world: World, who: Caller, file: NewFile, most: int) -> str:
    """Register a file, or add to one the replicas that it lacks; `most` is how many a file may have."""
    path = world.place(who, names(file.lfn))
    if isinstance(path, str) or path == ():
        return path or TAKEN
    if reason := world.may_make(who, path) or world.may_put(who, file.acl_id):
        return reason
    owners = {replica.surl: world.by_surl(replica.surl) for replica in file.replicas}
    if any(owner is not None and world.things[owner].guid != file.guid for owner in owners.values()):
        return "SURL_TAKEN"
    thing = world.things.get(path)
    if thing is None:
        if world.by_guid(file.guid) is not None:
            return "GUID_TAKEN"
        acl = file.acl_id or world.things[path[:-1]].default
        thing = Thing(EntryKind.FILE, acl, guid=file.guid, size=file.size, sha256=file.sha256 or None, comment=file.comment)
    elif thing.guid != file.guid:
        return TAKEN
    lacking = {replica.surl: replica for replica in file.replicas if owners[replica.surl] is None}
    if path in world.things and lacking:
        if not world.holds(who, path, Permission.WRITE):
            return "PERMISSION_MISSING"
        if len(thing.replicas) + len(lacking) > most:
            return "REPLICAS_TOO_MANY"
    thing.replicas |= lacking
    world.things[path] = thing
    return OK


def make_link(world: World, who: Caller, wanted: NewLink) -> str:
    """Make a link; one that is there already and leads to the same is accepted."""
    path = world.place(who, names(wanted.lfn))
    if isinstance(path, str) or path == ():
        return path or TAKEN
    if reason := world.may_make(who, path) or world.may_put(who, wanted.acl_id):
        return reason
    if path in world.things:
        return OK if world.things[path].link == wanted.link else TAKEN
    world.things[path] = Thing(EntryKind.SYMLINK, wanted.acl_id or world.things[path[:-1]].default, link=wanted.link)
    return OK


def rename(world: World, who: Caller, wanted: Renaming) -> str:
    """Give an entry, with everything below it, another path."""
    new = names(wanted.lfn)
    if new == ():
        return TAKEN
    old = world.find(who, wanted.source, follow=False)
    place = world.place(who, new)
    reason = world.may_remove(who, old) or (place if isinstance(place, str) else world.may_make(who, place))
    if reason or place == old:
        return reason
    thing, present = world.things[old], world.things.get(place)
    into_itself = "MOVE_INTO_ITSELF" if thing.directory and place[: len(old)] == old else OK
    if present is not None:
        reason = OK if wanted.replace else TAKEN
        reason = reason or world.may_remove(who, place) or (TAKEN if present.directory != thing.directory else OK) or into_itself
        reason = reason or ("DIRECTORY_NOT_EMPTY" if world.below(place) else OK)
        if reason:
            return reason
        del world.things[place]
    if into_itself:
        return into_itself
    for path in [old, *world.below(old)]:
        world.things[(*place, *path[len(old) :])] = world.things.pop(path)
    thing.rev, thing.modified = thing.rev + 1, NOW
    return OK


def remove(world: World, who: Caller, targets: Sequence[Target], *, recursive: bool) -> list[str]:
    """Remove entries: files and links first, then directories, the deepest first, or with `recursive` the shallowest."""
    paths = [world.find(who, target, follow=False) for target in targets]
    reasons = [world.may_remove(who, path) for path in paths]
    allowed = {path for path, reason in zip(paths, reasons, strict=True) if not reason}
    failed: dict[Path, str] = {}
    directories = sorted((path for path in allowed if world.things[path].directory), key=len, reverse=not recursive)
    for path in allowed - set(directories):
        del world.things[path]
    for path in directories:
        if path in world.things and (reason := _remove_directory(world, who, path, recursive)):
            failed[path] = reason
    left = {path: reason for path, reason in failed.items() if path in world.things}
    return [reason or left.get(path, OK) for path, reason in zip(paths, reasons, strict=True)]


def _remove_directory(world: World, who: Caller, path: Path, recursive: bool) -> str:
    below = world.below(path)
    if below and not recursive:
        return "DIRECTORY_NOT_EMPTY"
    emptied = {other[:-1] for other in below}
    may = all(world.holds(who, other, Permission.WRITE | Permission.TRAVERSE) for other in emptied)
    if not may or not all(world.holds(who, other, Permission.DELETE) for other in below):
        return "REMOVAL_FORBIDDEN"
    for other in [path, *below]:
        del world.things[other]
    return OK


def set_attributes(world: World, who: Caller, change: FileChange) -> str:
    """Change what a file is said to be, or the comment of anything."""
    path = world.find(who, change.target)
    reason = (world.may if change.of_any_entry else world.may_with_file)(who, path, Permission.SET)
    if reason:
        return reason
    thing = world.things[path]
    if change.if_rev not in (None, thing.rev):
        return "REV_CHANGED"
    thing.size = thing.size if change.size is None else change.size
    thing.sha256 = thing.sha256 if change.sha256 is None else change.sha256 or None
    thing.comment = thing.comment if change.comment is None else change.comment
    thing.modified = change.modify_time or NOW
    thing.accessed = change.access_time or thing.accessed
    thing.rev += 1
    return OK


def assign(world: World, who: Caller, change: AclAssignment) -> str:
    """Point an entry at another list."""
    path = world.find(who, change.target)
    if reason := world.may(who, path, Permission.CHANGE_ACL):
        return reason
    thing = world.things[path]
    if path == ():
        return "ROOT_FIXED"
    if not thing.directory and change.default_acl_id is not None:
        return "DEFAULT_ACL_OF_FILE"
    if reason := world.may_put(who, change.acl_id, change.default_acl_id):
        return reason
    changed = replace(thing, acl=change.acl_id, default=change.default_acl_id or thing.default, rev=thing.rev + 1, modified=NOW)
    world.things[path] = changed
    return OK


def removal(world: World, who: Caller, wanted: Removal) -> str:
    """Remove one entry."""
    return remove(world, who, [wanted.target], recursive=wanted.recursive)[0]
