"""Adding, changing, removing and listing replicas."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Conflict, Exhausted, Failure, Invalid, MdmError
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, not_found
from mdm_catalog.rules.model import EntryKind, FileReplicas, NewReplica, Replica, ReplicaChange, ReplicaSearch, Target
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import ReadTransaction, Store, WriteTransaction
from mdm_catalog.rules.value import MAX_REPLICAS

PAGE = 1_000


def add(writing: WriteTransaction, caller: Caller, wanted: Sequence[NewReplica]) -> list[Failure]:
    """Add replicas to files; return what went wrong with each. An existing replica is not changed."""
    rights = Rights(writing, caller)
    locations = locate(writing, rights, [item.file for item in wanted])
    locked = writing.lock_entries({item.node.id for item in locations if item.node is not None})
    present = writing.replicas_at({item.replica.surl for item in wanted})
    owners = {surl: entry_id for surl, (entry_id, _) in present.items()}
    counts = Counter({entry_id: len(replicas) for entry_id, replicas in writing.replicas(locked).items()})
    rows: list[tuple[int, Replica]] = []

    def failure_of(item: NewReplica, file: Location) -> Failure:
        current = replace(file, node=locked.get(file.node.id) if file.node else None)
        refusal = rights.why_refused(current, Permission.WRITE)
        if refusal is not None or current.node is None:
            return refusal or not_found()
        if current.node.kind != EntryKind.FILE:
            return Invalid("NOT_A_FILE", "This is not a file.")
        owner = owners.setdefault(item.replica.surl, current.node.id)
        if owner != current.node.id:
            return Conflict("SURL_TAKEN", "The SURL is a replica of another file.")
        if item.replica.surl not in present:
            if counts[owner] >= MAX_REPLICAS:
                del owners[item.replica.surl]
                return Exhausted("REPLICAS_TOO_MANY", f"A file has at most {MAX_REPLICAS} replicas.")
            counts[owner] += 1
            present[item.replica.surl] = (owner, item.replica)
            rows.append((owner, item.replica))
        return None

    failures = [failure_of(item, file) for item, file in zip(wanted, locations, strict=True)]
    writing.insert_replicas(rows)
    return failures


def change(writing: WriteTransaction, caller: Caller, changes: Sequence[ReplicaChange]) -> list[Failure]:
    """Change replicas, each at most once; return what went wrong with each."""
    surls = [item.surl for item in changes]
    rights, locations = _lock(writing, caller, surls)
    present = writing.replicas_at(surls)
    ready: dict[str, ReplicaChange] = {}

    def failure_of(item: ReplicaChange, file: Location) -> Failure:
        only_accesses = item.accesses > 0 and not item.of_attributes
        refusal = rights.why_refused(file, Permission.READ if only_accesses else Permission.WRITE)
        if refusal is not None:
            return refusal
        if item.surl not in present:
            return not_found()
        if item.surl in ready:
            return Invalid("REPLICA_TWICE", "This call changes the same replica twice: send one change per replica.")
        if item.if_rev not in (None, present[item.surl][1].rev):
            return Aborted("REV_CHANGED", "The replica was changed meanwhile: read it again and retry.")
        ready[item.surl] = item
        return None

    failures = [failure_of(item, file) for item, file in zip(changes, locations, strict=True)]
    writing.update_replicas(list(ready.values()))
    writing.touch({present[surl][0] for surl, item in ready.items() if item.accesses})
    return failures


def remove(writing: WriteTransaction, caller: Caller, surls: Sequence[str]) -> list[Failure]:
    """Remove replicas; return what went wrong with each."""
    rights, locations = _lock(writing, caller, surls)
    present = writing.replicas_at(surls)
    refusals = [rights.why_refused(file, Permission.WRITE) for file in locations]
    failures = [refusal or (None if surl in present else not_found()) for surl, refusal in zip(surls, refusals, strict=True)]
    writing.remove_replicas([surl for surl, failure in zip(surls, failures, strict=True) if failure is None])
    return failures


def list_of(reading: ReadTransaction, caller: Caller, targets: Sequence[Target]) -> list[FileReplicas | MdmError]:
    """Return the replicas of each file, or the refusal, in the order asked."""
    rights = Rights(reading, caller)
    locations = locate(reading, rights, targets)
    failures = [_seen_file(rights, item) for item in locations]
    replicas = reading.replicas({item.node.id for item, failure in zip(locations, failures, strict=True) if failure is None and item.node})
    return [failure or _of(item, replicas) for item, failure in zip(locations, failures, strict=True)]


def find(store: Store, caller: Caller, search: ReplicaSearch, after: str) -> Iterator[list[FileReplicas]]:
    """Yield the replicas that match, each with its file, in order of SURL, as far as the caller may see the files.

    Batches may be empty.

    Raises:
        Invalid: neither a set nor a host is named.
    """
    if not search.set_name and not search.host:
        raise Invalid("SEARCH_TOO_WIDE", "Name a set, a host, or both.")
    while True:
        found, last = store.read(partial(_find, caller, search, after))
        yield found
        if not last:
            return
        after = last


def _lock(writing: WriteTransaction, caller: Caller, surls: Sequence[str]) -> tuple[Rights, list[Location]]:
    rights = Rights(writing, caller)
    writing.lock_replicas(surls)
    return rights, locate(writing, rights, [Target(surl=surl) for surl in surls])


def _seen_file(rights: Rights, location: Location) -> Failure:
    hidden = rights.why_hidden(location)
    if hidden is None and location.node is not None and location.node.kind != EntryKind.FILE:
        return Invalid("NOT_A_FILE", "This is not a file.")
    return hidden


def _of(location: Location, replicas: dict[int, tuple[Replica, ...]]) -> FileReplicas:
    assert location.node is not None and location.node.guid is not None
    return FileReplicas(location.lfn, location.node.guid, replicas.get(location.node.id, ()))


def _find(caller: Caller, search: ReplicaSearch, after: str, reading: ReadTransaction) -> tuple[list[FileReplicas], str]:
    """Return a page, and the SURL after which the next one begins, empty at the end."""
    rights = Rights(reading, caller)
    page = reading.replica_page(search, after, PAGE)
    nodes = reading.nodes_at({entry_id for entry_id, _ in page})
    chains = reading.climb({node.parent_id for node in nodes.values() if node.parent_id is not None})
    found: list[FileReplicas] = []
    locations = {node.id: Location(Target(guid=node.guid), chains.get(node.parent_id or 0), node) for node in nodes.values()}
    rights.load_locations(locations.values())
    for entry_id, replica in page:
        file = locations[entry_id]
        if rights.why_hidden(file) is None and file.node is not None and file.node.guid is not None:
            found.append(FileReplicas(file.lfn, file.node.guid, (replica,)))
    return found, page[-1][1].surl if len(page) == PAGE else ""
