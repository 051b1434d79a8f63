"""Making directories and links, registering files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Exhausted, Forbidden, Invalid, MdmError
from mdm_wire.path import ROOT, Lfn, ancestors, join, names, split
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Rights, not_found
from mdm_catalog.rules.model import Chain, EntryKind, Failure, NewDirectory, NewFile, NewLink, Node, Replica
from mdm_catalog.rules.namespace.link import Lead, follow_directories
from mdm_catalog.rules.port import Place, Writing
from mdm_catalog.rules.value import MAX_BATCH, MAX_REPLICAS


def make_directories(writing: Writing, caller: Caller, wanted: Sequence[NewDirectory], *, parents: bool) -> list[Failure]:
    """Make directories, shallow ones first; return what went wrong with each.

    With `parents` missing ancestors are made too and existing directories are accepted as they are.

    Raises:
        Invalid: with the missing ancestors there are more than 10,000.
    """
    rights = Rights(writing, caller)
    asked = wanted
    leads, chains = _parents(writing, rights, [item.lfn for item in asked])
    wanted = [replace(item, lfn=lead) for item, lead in zip(asked, leads, strict=True) if not isinstance(lead, MdmError)]
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
    made = iter(_in_order(wanted, work.outcomes, parents))
    return [lead if isinstance(lead, MdmError) else next(made) for lead in leads]


def _in_order(wanted: Sequence[NewDirectory], outcomes: dict[Lfn, MdmError | None], parents: bool) -> list[Failure]:
    found: list[Failure] = []
    seen: set[Lfn] = set()
    for item in wanted:
        again = item.lfn in seen and outcomes[item.lfn] is None and not parents
        found.append(_taken() if again else outcomes[item.lfn])
        seen.add(item.lfn)
    return found


def _add_missing_ancestors(to_make: dict[Lfn, NewDirectory], chains: dict[Lfn, Chain]) -> None:
    """Add to `to_make` the directories missing above those in it, and to `chains` those that they hang from."""
    for parent, chain in list(chains.items()):
        if not chain.complete:
            path = [*ancestors(parent), parent]
            for lfn in path[len(chain.acl_ids) :]:
                to_make.setdefault(lfn, NewDirectory(lfn))
            last = path[len(chain.acl_ids) - 1]
            chains.setdefault(last, replace(chain, lfn=last, complete=True))
        if len(to_make) > MAX_BATCH:
            raise Invalid("BATCH_TOO_LARGE", f"With missing parents more than {MAX_BATCH:,} directories: split the batch.")


class _Directories:
    """The work of one MakeDirectories call, level by level from the root down."""

    def __init__(self, writing: Writing, rights: Rights, chains: dict[Lfn, Chain], parents: bool) -> None:
        self.rights = rights
        self.outcomes: dict[Lfn, MdmError | None] = {}
        self._writing = writing
        self._chains = chains
        self._parents = parents

    def make_level(self, level: Sequence[NewDirectory]) -> None:
        """Make directories of one depth, whose parents are made already if they can be."""
        self.outcomes |= {item.lfn: self._failure_above(split(item.lfn)[0]) for item in level}
        level = [item for item in level if self.outcomes[item.lfn] is None]
        self._lock({split(item.lfn)[0] for item in level})
        places = {item.lfn: (self._chains[split(item.lfn)[0]].directory_id, split(item.lfn)[1]) for item in level}
        existing = self._writing.children([place for lfn, place in places.items() if lfn != ROOT])
        self.rights.load(node.acl_id for node in existing.values())
        rows: dict[Lfn, tuple[int, str, UUID, UUID]] = {}
        for item in level:
            outcome = self._outcome(item, existing.get(places[item.lfn]))
            if isinstance(outcome, tuple):
                rows[item.lfn] = (*places[item.lfn], *outcome)
            self.outcomes[item.lfn] = None if isinstance(outcome, tuple) else outcome
        made = self._writing.insert_directories(list(rows.values()))
        for lfn, (_, _, acl_id, default_acl_id) in rows.items():
            above = self._chains[split(lfn)[0]].acl_ids
            self._chains[lfn] = Chain(lfn, made[places[lfn]], default_acl_id, (*above, acl_id), True)

    def _failure_above(self, parent: Lfn) -> MdmError | None:
        """Return why this call could not make `parent`, None if it is there or was not to be made."""
        chain = self._chains.get(parent)
        return None if chain is not None and chain.complete else self.outcomes.get(parent)

    def _lock(self, parents: set[Lfn]) -> None:
        reachable = [lfn for lfn in parents if self.rights.obstacle(self._chains[lfn]) is None]
        _lock_chains(self._writing, self._chains, reachable)
        self.rights.load(self._chains[lfn].acl_ids[-1] for lfn in reachable)

    def _outcome(self, item: NewDirectory, node: Node | None) -> MdmError | tuple[UUID, UUID] | None:
        """Return the ACLs with which to make a directory, nothing if it is there already, or why it cannot be."""
        if item.lfn == ROOT:
            return None if self._parents else _taken()
        chain = self._chains[split(item.lfn)[0]]
        obstacle = self.rights.obstacle(chain)
        if obstacle is not None:
            return obstacle
        refusal = self.rights.making_refusal(chain)
        if node is not None and (refusal is None or self.rights.sees_in(chain, node)):
            if node.kind != EntryKind.DIRECTORY or not self._parents or node.default_acl_id is None:
                return _taken()
            self._chains[item.lfn] = Chain(item.lfn, node.id, node.default_acl_id, (*chain.acl_ids, node.acl_id), True)
            return None
        refusal = refusal or self.rights.acl_refusal(item.acl_id, item.default_acl_id)
        acl_id = item.acl_id or chain.default_acl_id
        return refusal or (acl_id, item.default_acl_id or acl_id)


def register_files(writing: Writing, caller: Caller, files: Sequence[NewFile]) -> list[Failure]:
    """Register files with their replicas; return what went wrong with each.

    A file that is registered already under the same LFN and GUID keeps its attributes and gains the replicas it lacks.
    """
    rights = Rights(writing, caller)
    leads, parents = _lock_parents(writing, rights, [file.lfn for file in files])
    files = [file if isinstance(lead, MdmError) else replace(file, lfn=lead) for file, lead in zip(files, leads, strict=True)]
    refusals = _refusals(writing, rights, files, parents)
    outcomes = [lead if isinstance(lead, MdmError) else refusal for lead, refusal in zip(leads, refusals, strict=True)]
    open_items = [index for index, outcome in enumerate(outcomes) if outcome is None]
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
            outcomes[index] = Conflict("GUID_TAKEN", "This GUID is registered under another LFN.")
        elif found[1] != file.guid:
            outcomes[index] = _taken()
        elif node is not None and index in lacking:
            counts[node.id] += lacking[index]
            outcomes[index] = _adding_refusal(rights, node, counts[node.id])
        if outcomes[index] is None and found is not None:
            replicas.extend((found[0], replica) for replica in file.replicas)
    _add_replicas(writing, replicas)
    return outcomes


def _lacking(writing: Writing, files: Mapping[int, NewFile]) -> dict[int, int]:
    """Return how many of the replicas given of each file are not there yet, where there are such."""
    known = writing.by_surl({replica.surl for file in files.values() for replica in file.replicas})
    counts = {index: sum(replica.surl not in known for replica in file.replicas) for index, file in files.items()}
    return {index: count for index, count in counts.items() if count}


def _adding_refusal(rights: Rights, node: Node, count: int) -> MdmError | None:
    """Return why a file that is there may not have more replicas, `count` in all."""
    if not rights.under(node.acl_id) & Permission.WRITE:
        return Forbidden("PERMISSION_MISSING", "The file is registered; to add replicas needs `w` on it.")
    return Exhausted("REPLICAS_TOO_MANY", f"A file has at most {MAX_REPLICAS} replicas.") if count > MAX_REPLICAS else None


def _add_replicas(writing: Writing, replicas: Sequence[tuple[int, Replica]]) -> None:
    owners = writing.by_surl({replica.surl for _, replica in replicas})
    missing = {replica.surl: (entry_id, replica) for entry_id, replica in replicas if replica.surl not in owners}
    writing.insert_replicas(list(missing.values()))


def make_links(writing: Writing, caller: Caller, links: Sequence[NewLink]) -> list[Failure]:
    """Make symbolic links; return what went wrong with each. One that is there already and leads to the same is accepted."""
    rights = Rights(writing, caller)
    leads, parents = _lock_parents(writing, rights, [link.lfn for link in links])
    rights.load({link.acl_id for link in links if link.acl_id is not None})
    places = [
        None if isinstance(lead, MdmError) or lead == ROOT else (parents[split(lead)[0]].directory_id, split(lead)[1]) for lead in leads
    ]
    present = {place: node.link for place, node in writing.children({place for place in places if place}).items()}
    rows: list[tuple[int, str, str, UUID]] = []

    def outcome(link: NewLink, lead: Lead, place: Place | None) -> MdmError | None:
        if isinstance(lead, MdmError) or place is None:
            return lead if isinstance(lead, MdmError) else _taken()
        chain = parents[split(lead)[0]]
        refusal = rights.making_refusal(chain) or rights.acl_refusal(link.acl_id)
        if refusal is not None:
            return refusal
        if place in present:
            return None if present[place] == link.link else _taken()
        present[place] = link.link
        rows.append((*place, link.link, link.acl_id or chain.default_acl_id))
        return None

    outcomes = [outcome(*item) for item in zip(links, leads, places, strict=True)]
    writing.insert_links(rows)
    return outcomes


def _parents(writing: Writing, rights: Rights, lfns: Sequence[Lfn]) -> tuple[list[Lead], dict[Lfn, Chain]]:
    """Return where the paths lead whose last name is to be made, and the chains of the directories it is to be made in."""
    leads, chains = follow_directories(writing, rights, {split(lfn)[0] for lfn in lfns})
    ends: list[Lead] = []
    for lfn in lfns:
        parent, name = split(lfn)
        lead = leads[parent]
        ends.append(lead if isinstance(lead, MdmError) else join(lead, name))
    return ends, {lead: chains[lead] for lead in leads.values() if not isinstance(lead, MdmError)}


def _lock_parents(writing: Writing, rights: Rights, lfns: Sequence[Lfn]) -> tuple[list[Lead], dict[Lfn, Chain]]:
    """Return what `_parents` does, with the directories that the caller can reach locked."""
    leads, chains = _parents(writing, rights, lfns)
    rights.load(acl_id for chain in chains.values() for acl_id in chain.acl_ids)
    _lock_chains(writing, chains, [lfn for lfn, chain in chains.items() if rights.obstacle(chain) is None])
    rights.load(chain.acl_ids[-1] for chain in chains.values())
    return leads, chains


def _lock_chains(writing: Writing, chains: dict[Lfn, Chain], lfns: Sequence[Lfn]) -> None:
    """Lock the last directories of these chains, and make the chains say what they are now; one that vanished is incomplete."""
    locked = writing.lock_directories({chains[lfn].directory_id for lfn in lfns})
    for lfn in lfns:
        chain, node = chains[lfn], locked.get(chains[lfn].directory_id)
        if node is None or node.default_acl_id is None:
            chains[lfn] = replace(chain, complete=False, acl_ids=chain.acl_ids[:-1])
        else:
            chains[lfn] = replace(chain, acl_ids=(*chain.acl_ids[:-1], node.acl_id), default_acl_id=node.default_acl_id)


def _refusals(writing: Writing, rights: Rights, files: Sequence[NewFile], parents: dict[Lfn, Chain]) -> list[Failure]:
    """Return why each file may not be registered, as far as that is known before trying."""
    rights.load({file.acl_id for file in files if file.acl_id is not None})
    in_directory = {lfn: rights.making_refusal(chain) for lfn, chain in parents.items()}
    claimed = {surl: node.guid for surl, node in writing.by_surl({replica.surl for file in files for replica in file.replicas}).items()}

    def refusal(file: NewFile) -> MdmError | None:
        if file.lfn == ROOT:
            return _taken()
        if split(file.lfn)[0] not in parents:  # its path leads nowhere: the caller gets that error instead
            return not_found()
        refused = in_directory[split(file.lfn)[0]] or rights.acl_refusal(file.acl_id)
        if refused is not None:
            return refused
        if any(claimed.get(replica.surl, file.guid) != file.guid for replica in file.replicas):
            return Conflict("SURL_TAKEN", "One of the SURLs is a replica of another file.")
        claimed.update((replica.surl, file.guid) for replica in file.replicas)
        return None

    return [refusal(file) for file in files]


def _taken() -> Conflict:
    return Conflict("LFN_TAKEN", "This LFN is taken by another entry.")
