"""Replicas: adding, changing, removing, listing."""

from dataclasses import replace

from mdm_catalog.rules.model import EntryKind, NewReplica, Replica, ReplicaChange, ReplicaRemoval, ReplicaSearch, Target
from mdm_service.identity.caller import Caller
from mdm_wire.permission import Permission

from services.catalog.tests.world.access import ABSENT, NOW, OK, Path, World


def add(world: World, who: Caller, wanted: NewReplica, most: int) -> str:
    """Add a replica to a file; one that is there already stays as it is. `most` is how many a file may have."""
    path = world.find(who, wanted.file)
    if reason := world.may_with_file(who, path, Permission.WRITE):
        return reason
    owner = world.by_surl(wanted.replica.surl)
    if owner not in (None, path):
        return "SURL_TAKEN"
    replicas = world.things[path].replicas
    if owner is None and len(replicas) >= most:
        return "REPLICAS_TOO_MANY"
    replicas.setdefault(wanted.replica.surl, wanted.replica)
    return OK


def change(world: World, who: Caller, wanted: ReplicaChange) -> str:
    """Change what a replica is said to be, or count accesses to it."""
    path = world.find(who, Target(surl=wanted.surl))
    only_accesses = wanted.accesses > 0 and not wanted.of_attributes
    if reason := world.may(who, path, Permission.READ if only_accesses else Permission.WRITE):
        return reason
    thing = world.things[path]
    old = thing.replicas[wanted.surl]
    if wanted.if_rev not in (None, old.rev):
        return "REV_CHANGED"
    given = {name: getattr(wanted, name) for name in ("status", "type", "set_name", "host") if getattr(wanted, name) is not None}
    thing.replicas[wanted.surl] = replace(old, **given, access_count=old.access_count + wanted.accesses, rev=old.rev + bool(given))
    if wanted.accesses:
        thing.accessed = NOW
    return OK


def remove(world: World, who: Caller, wanted: ReplicaRemoval) -> str:
    """Remove a replica."""
    path = world.find(who, Target(surl=wanted.surl))
    reason = world.may(who, path, Permission.WRITE)
    if not reason:
        del world.things[path].replicas[wanted.surl]
    return reason


def list_of(world: World, who: Caller, target: Target) -> tuple[Path, list[Replica]] | str:
    """Return a file's path and replicas, or why not."""
    path = world.find(who, target)
    reason = world.may_see(who, path)
    if reason or world.things[path].kind is not EntryKind.FILE:
        return reason or "NOT_A_FILE"
    return path, list(world.things[path].replicas.values())


def search(world: World, who: Caller, wanted: ReplicaSearch) -> list[tuple[Path, str]]:
    """Return the path of each file and the replica searched for, in order of SURL."""
    found = [
        (path, replica.surl)
        for path, thing in world.things.items()
        for replica in thing.replicas.values()
        if wanted.set_name in ("", replica.set_name)
        and wanted.host in ("", replica.host)
        and (not wanted.statuses or replica.status in wanted.statuses)
        and world.may_see(who, path) != ABSENT
        and not world.may_see(who, path)
    ]
    return sorted(found, key=lambda item: item[1].encode())
