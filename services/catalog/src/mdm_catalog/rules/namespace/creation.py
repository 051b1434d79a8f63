"""Making directories and links, registering files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.batch import MAX_CATALOG_ITEMS
from mdm_wire.errors import Conflict, Exhausted, Failure, Forbidden, Invalid, MdmError
from mdm_wire.path import ROOT, Lfn, ancestors, join, names, split
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Rights, not_found
from mdm_catalog.rules.model import Chain, EntryKind, NewDirectory, NewFile, NewLink, Node, Replica
from mdm_catalog.rules.namespace.lookup import Destination, follow_directories
from mdm_catalog.rules.port import Place, WriteTransaction
from mdm_catalog.rules.value import MAX_REPLICAS


def make_directories(writing: WriteTransaction, caller: Caller, wanted: Sequence[NewDirectory], *, parents: bool) -> list[Failure]:
    """Make directories, shallow ones first; return what went wrong with each.

    With `parents` missing ancestors are made too and existing directories are accepted as they are.

    Raises:
        Invalid: with the missing ancestors there are more than 10,000.
    """
    rights = Rights(writing, caller)
    asked = wanted
    destinations, chains = _parents(writing, rights, [item.lfn for item in asked])
    wanted = [
        replace(item, lfn=destination)
        for item, destination in zip(asked, destinations, strict=True)
        if not isinstance(destination, MdmError)
    ]
    work = _Directories(writing, rights, chains, parents)
    to_make: dict[Lfn, NewDirectory] = {}
    for item in wanted:
        to_make.setdefault(item.lfn, item)
    if parents:
        _add_missing_ancestors(to_make, chains)
    work.rights.load(acl_id for item in to_make.values() for acl_id in (item.acl_id, item.default_acl_id) if acl_id is not None)
    levels: dict[int, list[NewDirectory]] = {}
    for item in to_make.values():
        levels.setdefault(len(names(item.lfn)), []).append(item)
    for depth in sorted(levels):
        work.make_level(levels[depth])
    made = iter(_in_order(wanted, work.failures, parents))
    return [destination if isinstance(destination, MdmError) else next(made) for destination in destinations]


def _in_order(wanted: Sequence[NewDirectory], failures: dict[Lfn, MdmError | None], parents: bool) -> list[Failure]:
    found: list[Failure] = []
    seen: set[Lfn] = set()
    for item in wanted:
        again = item.lfn in seen and failures[item.lfn] is None and not parents
        found.append(_taken() if again else failures[item.lfn])
        seen.add(item.lfn)
    return found


def _add_missing_ancestors(to_make: dict[Lfn, NewDirectory], chains: dict[Lfn, Chain]) -> None:
    """Add to `to_make` the directories missing above those in it, and to `chains` the existing ones above these."""
    for parent, chain in list(chains.items()):
        if not chain.complete:
            path = [*ancestors(parent), parent]
            for lfn in path[len(chain.acl_ids) :]:
                to_make.setdefault(lfn, NewDirectory(lfn))
            last = path[len(chain.acl_ids) - 1]
            chains.setdefault(last, replace(chain, lfn=last, complete=True))
        if len(to_make) > MAX_CATALOG_ITEMS:
            raise Invalid("BATCH_TOO_LARGE", f"With missing parents more than {MAX_CATALOG_ITEMS:,} directories: split the batch.")


class _Directories:
    """The work of one MakeDirectories call, level by level from the root down."""

    def __init__(self, writing: WriteTransaction, rights: Rights, chains: dict[Lfn, Chain], parents: bool) -> None:
        self.rights = rights
        self.failures: dict[Lfn, MdmError | None] = {}
        self._writing = writing
        self._chains = chains
        self._parents = parents

    def make_level(self, level: Sequence[NewDirectory]) -> None:
        """Make directories of one depth; their parents have been made already, where possible."""
        self.failures |= {item.lfn: self._failure_above(split(item.lfn)[0]) for item in level}
        level = [item for item in level if self.failures[item.lfn] is None]
        self._lock({split(item.lfn)[0] for item in level})
        places = {item.lfn: (self._chains[split(item.lfn)[0]].directory_id, split(item.lfn)[1]) for item in level}
        existing = self._writing.children([place for lfn, place in places.items() if lfn != ROOT])
        self.rights.load(node.acl_id for node in existing.values())
        rows: dict[Lfn, tuple[int, str, UUID, UUID]] = {}
        for item in level:
            acls = self._acls_for(item, existing.get(places[item.lfn]))
            if isinstance(acls, tuple):
                rows[item.lfn] = (*places[item.lfn], *acls)
            self.failures[item.lfn] = None if isinstance(acls, tuple) else acls
        made = self._writing.insert_directories(list(rows.values()))
        for lfn, (_, _, acl_id, default_acl_id) in rows.items():
            above = self._chains[split(lfn)[0]].acl_ids
            self._chains[lfn] = Chain(lfn, made[places[lfn]], default_acl_id, (*above, acl_id), True)

    def _failure_above(self, parent: Lfn) -> MdmError | None:
        """Return why this call could not make `parent`, None if it exists or this call was not to make it."""
        chain = self._chains.get(parent)
        return None if chain is not None and chain.complete else self.failures.get(parent)

    def _lock(self, parents: set[Lfn]) -> None:
        reachable = [lfn for lfn in parents if self.rights.why_blocked(self._chains[lfn]) is None]
        _lock_chains(self._writing, self._chains, reachable)
        self.rights.load(self._chains[lfn].acl_ids[-1] for lfn in reachable)

    def _acls_for(self, item: NewDirectory, node: Node | None) -> MdmError | tuple[UUID, UUID] | None:
        """Return the ACLs with which to make a directory, None if it exists already, or why it cannot be made."""
        if item.lfn == ROOT:
            return None if self._parents else _taken()
        chain = self._chains[split(item.lfn)[0]]
        blocked = self.rights.why_blocked(chain)
        if blocked is not None:
            return blocked
        refusal = self.rights.why_not_writable(chain)
        if node is not None and (refusal is None or self.rights.sees_in(chain, node)):
            if node.kind != EntryKind.DIRECTORY or not self._parents or node.default_acl_id is None:
                return _taken()
            self._chains[item.lfn] = Chain(item.lfn, node.id, node.default_acl_id, (*chain.acl_ids, node.acl_id), True)
            return None
        refusal = refusal or self.rights.why_acl_refused(item.acl_id, item.default_acl_id)
        acl_id = item.acl_id or chain.default_acl_id
        return refusal or (acl_id, item.default_acl_id or acl_id)


def register_files(writing: WriteTransaction, caller: Caller, files: Sequence[NewFile]) -> list[Failure]:
    """Register files with their replicas; return what went wrong with each.

    A file that is registered already under the same LFN and GUID keeps its attributes and gains the replicas it lacks.
    """
    rights = Rights(writing, caller)
    destinations, parents = _lock_parents(writing, rights, [file.lfn for file in files])
    files = [
        file if isinstance(destination, MdmError) else replace(file, lfn=destination)
        for file, destination in zip(files, destinations, strict=True)
    ]
    refusals = _refusals(writing, rights, files, parents)
    failures = [
        destination if isinstance(destination, MdmError) else refusal for destination, refusal in zip(destinations, refusals, strict=True)
    ]
    open_items = [index for index, failure in enumerate(failures) if failure is None]
    places = {index: (parents[split(files[index].lfn)[0]].directory_id, split(files[index].lfn)[1]) for index in open_items}
    rows = []
    for index in open_items:
        file = files[index]
        acl_id = file.acl_id or parents[split(file.lfn)[0]].default_acl_id
        rows.append((*places[index], file.guid, file.size, file.sha256 or None, file.comment, acl_id))
    stored = writing.insert_files(rows)
    present = writing.children(set(places.values()) - stored.keys())
    rights.load(node.acl_id for node in present.values())
    again = [index for index in open_items if places[index] in present]
    lacking = _lacking(writing, {index: files[index] for index in again})
    growing = writing.lock_entries({present[places[index]].id for index in lacking})
    counts = Counter({entry_id: len(found) for entry_id, found in writing.replicas(growing).items()})
    replicas: list[tuple[int, Replica]] = []
    for index in open_items:
        file, node = files[index], present.get(places[index])
        found = stored.get(places[index]) or (node and (node.id, node.guid))
        if found is None:
            failures[index] = Conflict("GUID_TAKEN", "This GUID is registered under another LFN.")
        elif found[1] != file.guid:
            failures[index] = _taken()
        elif node is not None and index in lacking:
            counts[node.id] += lacking[index]
            failures[index] = _adding_refusal(rights, node, counts[node.id])
        if failures[index] is None and found is not None:
            replicas.extend((found[0], replica) for replica in file.replicas)
    _add_replicas(writing, replicas)
    return failures


def _lacking(writing: WriteTransaction, files: Mapping[int, NewFile]) -> dict[int, int]:
    """Return how many of each file's given replicas do not exist yet, where there are any."""
    known = writing.by_surl({replica.surl for file in files.values() for replica in file.replicas})
    counts = {index: sum(replica.surl not in known for replica in file.replicas) for index, file in files.items()}
    return {index: count for index, count in counts.items() if count}


def _adding_refusal(rights: Rights, node: Node, count: int) -> MdmError | None:
    """Return why an existing file may not get more replicas, `count` in all."""
    if not rights.permissions_under(node.acl_id) & Permission.WRITE:
        return Forbidden("PERMISSION_MISSING", "Permission denied: the file exists, and adding replicas needs `w` on it.")
    return Exhausted("REPLICAS_TOO_MANY", f"A file has at most {MAX_REPLICAS} replicas.") if count > MAX_REPLICAS else None


def _add_replicas(writing: WriteTransaction, replicas: Sequence[tuple[int, Replica]]) -> None:
    owners = writing.by_surl({replica.surl for _, replica in replicas})
    missing = {replica.surl: (entry_id, replica) for entry_id, replica in replicas if replica.surl not in owners}
    writing.insert_replicas(list(missing.values()))


def make_links(writing: WriteTransaction, caller: Caller, links: Sequence[NewLink]) -> list[Failure]:
    """Make symbolic links; return what went wrong with each. An existing link with the same path is accepted."""
    rights = Rights(writing, caller)
    destinations, parents = _lock_parents(writing, rights, [link.lfn for link in links])
    rights.load({link.acl_id for link in links if link.acl_id is not None})
    places = [
        None
        if isinstance(destination, MdmError) or destination == ROOT
        else (parents[split(destination)[0]].directory_id, split(destination)[1])
        for destination in destinations
    ]
    present = {place: node.link for place, node in writing.children({place for place in places if place}).items()}
    rows: list[tuple[int, str, str, UUID]] = []

    def failure_of(link: NewLink, destination: Destination, place: Place | None) -> MdmError | None:
        if isinstance(destination, MdmError) or place is None:
            return destination if isinstance(destination, MdmError) else _taken()
        chain = parents[split(destination)[0]]
        refusal = rights.why_not_writable(chain) or rights.why_acl_refused(link.acl_id)
        if refusal is not None:
            return refusal
        if place in present:
            return None if present[place] == link.link else _taken()
        present[place] = link.link
        rows.append((*place, link.link, link.acl_id or chain.default_acl_id))
        return None

    failures = [failure_of(*item) for item in zip(links, destinations, places, strict=True)]
    writing.insert_links(rows)
    return failures


def _parents(writing: WriteTransaction, rights: Rights, lfns: Sequence[Lfn]) -> tuple[list[Destination], dict[Lfn, Chain]]:
    """Return the destinations of paths whose last names are to be made, and the chains of their parent directories."""
    destinations, chains = follow_directories(writing, rights, {split(lfn)[0] for lfn in lfns})
    ends: list[Destination] = []
    for lfn in lfns:
        parent, name = split(lfn)
        destination = destinations[parent]
        ends.append(destination if isinstance(destination, MdmError) else join(destination, name))
    return ends, {destination: chains[destination] for destination in destinations.values() if not isinstance(destination, MdmError)}


def _lock_parents(writing: WriteTransaction, rights: Rights, lfns: Sequence[Lfn]) -> tuple[list[Destination], dict[Lfn, Chain]]:
    """Return what `_parents` does, with the directories that the caller can reach locked."""
    destinations, chains = _parents(writing, rights, lfns)
    rights.load(acl_id for chain in chains.values() for acl_id in chain.acl_ids)
    _lock_chains(writing, chains, [lfn for lfn, chain in chains.items() if rights.why_blocked(chain) is None])
    rights.load(chain.acl_ids[-1] for chain in chains.values())
    return destinations, chains


def _lock_chains(writing: WriteTransaction, chains: dict[Lfn, Chain], lfns: Sequence[Lfn]) -> None:
    """Lock the last directories of these chains and update the chains; that of a directory that no longer exists becomes incomplete."""
    locked = writing.lock_directories({chains[lfn].directory_id for lfn in lfns})
    for lfn in lfns:
        chain, node = chains[lfn], locked.get(chains[lfn].directory_id)
        if node is None or node.default_acl_id is None:
            chains[lfn] = replace(chain, complete=False, acl_ids=chain.acl_ids[:-1])
        else:
            chains[lfn] = replace(chain, acl_ids=(*chain.acl_ids[:-1], node.acl_id), default_acl_id=node.default_acl_id)


def _refusals(writing: WriteTransaction, rights: Rights, files: Sequence[NewFile], parents: dict[Lfn, Chain]) -> list[Failure]:
    """Return why each file may not be registered, as far as this can be checked before inserting."""
    rights.load({file.acl_id for file in files if file.acl_id is not None})
    in_directory = {lfn: rights.why_not_writable(chain) for lfn, chain in parents.items()}
    claimed = {surl: node.guid for surl, node in writing.by_surl({replica.surl for file in files for replica in file.replicas}).items()}

    def refusal(file: NewFile) -> MdmError | None:
        if file.lfn == ROOT:
            return _taken()
        if split(file.lfn)[0] not in parents:  # its path cannot be followed: the caller gets that error instead
            return not_found()
        refused = in_directory[split(file.lfn)[0]] or rights.why_acl_refused(file.acl_id)
        if refused is not None:
            return refused
        if any(claimed.get(replica.surl, file.guid) != file.guid for replica in file.replicas):
            return Conflict("SURL_TAKEN", "One of the SURLs is a replica of another file.")
        claimed.update((replica.surl, file.guid) for replica in file.replicas)
        return None

    return [refusal(file) for file in files]


def _taken() -> Conflict:
    return Conflict("LFN_TAKEN", "This LFN is taken by another entry.")
