"""Making directories and registering files."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from mdm_service.errors import Conflict, Invalid, MdmError
from mdm_service.identity import Caller

from mdm_catalog.access import Rights, not_found
from mdm_catalog.model import MAX_BATCH, Chain, EntryKind, NewDirectory, NewFile, Node, Replica
from mdm_catalog.path import ROOT, Lfn, ancestors, names, split
from mdm_catalog.port import Writing


def make_directories(writing: Writing, caller: Caller, wanted: Sequence[NewDirectory], *, parents: bool) -> list[MdmError | None]:
    """Make directories, shallow ones first; return what went wrong with each.

    With `parents` missing ancestors are made too and existing directories are accepted as they are.

    Raises:
        Invalid: with the missing ancestors there are more than 10,000.
    """
    chains = writing.walk({split(item.lfn)[0] for item in wanted})
    work = _Directories(writing, Rights(writing, caller), chains, parents)
    plan: dict[Lfn, NewDirectory] = {}
    for item in wanted:
        plan.setdefault(item.lfn, item)
    if parents:
        _add_missing_ancestors(plan, chains)
    work.rights.load(acl_id for item in plan.values() for acl_id in (item.acl_id, item.default_acl_id) if acl_id is not None)
    levels: dict[int, list[NewDirectory]] = {}
    for item in plan.values():
        levels.setdefault(len(names(item.lfn)), []).append(item)
    for depth in sorted(levels):
        work.make_level(levels[depth])
    return _in_order(wanted, work.outcomes, parents)


def _in_order(wanted: Sequence[NewDirectory], outcomes: dict[Lfn, MdmError | None], parents: bool) -> list[MdmError | None]:
    found: list[MdmError | None] = []
    seen: set[Lfn] = set()
    for item in wanted:
        again = item.lfn in seen and outcomes[item.lfn] is None and not parents
        found.append(_taken() if again else outcomes[item.lfn])
        seen.add(item.lfn)
    return found


def _add_missing_ancestors(plan: dict[Lfn, NewDirectory], chains: dict[Lfn, Chain]) -> None:
    """Add the directories missing above those planned to the plan, and those they hang from to the chains."""
    for parent, chain in list(chains.items()):
        if not chain.complete:
            path = [*ancestors(parent), parent]
            for lfn in path[len(chain.acl_ids) :]:
                plan.setdefault(lfn, NewDirectory(lfn))
            last = path[len(chain.acl_ids) - 1]
            chains.setdefault(last, replace(chain, lfn=last, complete=True))
        if len(plan) > MAX_BATCH:
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
        reachable: dict[Lfn, tuple[NewDirectory, Chain]] = {}
        for item in level:
            if item.lfn == ROOT:
                self.outcomes[ROOT] = None if self._parents else _taken()
                continue
            parent, _ = split(item.lfn)
            chain = self._chains.get(parent)
            obstacle = self.outcomes.get(parent) or (not_found() if chain is None else self.rights.obstacle(chain))
            if obstacle is None and chain is not None:
                reachable[item.lfn] = (item, chain)
            self.outcomes[item.lfn] = obstacle
        self._make_reachable(reachable)

    def _make_reachable(self, reachable: dict[Lfn, tuple[NewDirectory, Chain]]) -> None:
        locked = self._writing.lock_directories({chain.directory_id for _, chain in reachable.values()})
        places = {lfn: (chain.directory_id, split(lfn)[1]) for lfn, (_, chain) in reachable.items()}
        existing = self._writing.children(places.values())
        self.rights.load(node.acl_id for node in (*locked.values(), *existing.values()))
        rows: dict[Lfn, tuple[int, str, UUID, UUID]] = {}
        for lfn, (item, chain) in reachable.items():
            parent = locked.get(chain.directory_id)
            node = existing.get(places[lfn])
            try:
                if parent is None:
                    raise not_found()
                fresh = _refreshed(chain, parent)
                if node is not None:
                    self._accept_existing(lfn, fresh, node)
                else:
                    rows[lfn] = (*places[lfn], *self._acls(item, fresh))
            except MdmError as error:
                self.outcomes[lfn] = error
        made = self._writing.insert_directories(list(rows.values()))
        for lfn, (_, _, acl_id, default_acl_id) in rows.items():
            chain = reachable[lfn][1]
            self._chains[lfn] = Chain(lfn, made[places[lfn]], default_acl_id, (*chain.acl_ids, acl_id), True)

    def _accept_existing(self, lfn: Lfn, chain: Chain, node: Node) -> None:
        refusal = self.rights.may_make_in(chain)
        if refusal is not None and not self.rights.sees_in(chain, node):
            raise refusal
        if node.kind != EntryKind.DIRECTORY or not self._parents or node.default_acl_id is None:
            raise _taken()
        self._chains[lfn] = Chain(lfn, node.id, node.default_acl_id, (*chain.acl_ids, node.acl_id), True)

    def _acls(self, item: NewDirectory, chain: Chain) -> tuple[UUID, UUID]:
        refusal = self.rights.may_make_in(chain)
        if refusal is not None:
            raise refusal
        self.rights.check_acl(item.acl_id)
        self.rights.check_acl(item.default_acl_id)
        acl_id = item.acl_id or chain.default_acl_id
        return acl_id, item.default_acl_id or acl_id


def register_files(writing: Writing, caller: Caller, files: Sequence[NewFile]) -> list[MdmError | None]:
    """Register files with their replicas; return what went wrong with each.

    A file that is registered already under the same LFN and GUID keeps its attributes and gains the replicas it lacks.
    """
    rights = Rights(writing, caller)
    parents = _lock_parents(writing, rights, files)
    outcomes = _refusals(writing, rights, files, parents)
    open_items = [index for index, outcome in enumerate(outcomes) if outcome is None]
    places = {index: (parents[split(files[index].lfn)[0]].directory_id, split(files[index].lfn)[1]) for index in open_items}
    rows = []
    for index in open_items:
        file = files[index]
        acl_id = file.acl_id or parents[split(file.lfn)[0]].default_acl_id
        rows.append((*places[index], file.guid, file.size, file.sha256 or None, file.comment, acl_id))
    stored = writing.insert_files(rows)
    present = {place: (node.id, node.guid) for place, node in writing.children(set(places.values()) - stored.keys()).items()}
    replicas: list[tuple[int, Replica]] = []
    for index in open_items:
        found = stored.get(places[index]) or present.get(places[index])
        if found is None:
            outcomes[index] = Conflict("GUID_TAKEN", "This GUID is registered under another LFN.")
        elif found[1] != files[index].guid:
            outcomes[index] = _taken()
        else:
            replicas.extend((found[0], replica) for replica in files[index].replicas)
    _add_replicas(writing, replicas)
    return outcomes


def _add_replicas(writing: Writing, replicas: Sequence[tuple[int, Replica]]) -> None:
    owners = writing.by_surl({replica.surl for _, replica in replicas})
    missing = {replica.surl: (entry_id, replica) for entry_id, replica in replicas if replica.surl not in owners}
    writing.insert_replicas(list(missing.values()))


def _lock_parents(writing: Writing, rights: Rights, files: Sequence[NewFile]) -> dict[Lfn, Chain]:
    """Return the chains of the files' directories, with those the caller can reach locked; one that vanished is incomplete."""
    chains = writing.walk({split(file.lfn)[0] for file in files})
    rights.load(acl_id for chain in chains.values() for acl_id in chain.acl_ids)
    reachable = {lfn: chain for lfn, chain in chains.items() if rights.obstacle(chain) is None}
    locked = writing.lock_directories({chain.directory_id for chain in reachable.values()})
    for lfn, chain in reachable.items():
        node = locked.get(chain.directory_id)
        chains[lfn] = replace(chain, complete=False, acl_ids=chain.acl_ids[:-1]) if node is None else _refreshed(chain, node)
    rights.load(chain.acl_ids[-1] for chain in chains.values())
    return chains


def _refusals(writing: Writing, rights: Rights, files: Sequence[NewFile], parents: dict[Lfn, Chain]) -> list[MdmError | None]:
    """Return why each file may not be registered, as far as that is known before trying."""
    rights.load({file.acl_id for file in files if file.acl_id is not None})
    in_directory = {lfn: rights.may_make_in(chain) for lfn, chain in parents.items()}
    claimed = {surl: node.guid for surl, node in writing.by_surl({replica.surl for file in files for replica in file.replicas}).items()}

    def refusal(file: NewFile) -> MdmError | None:
        if file.lfn == ROOT:
            return _taken()
        refused = in_directory[split(file.lfn)[0]]
        if refused is not None:
            return refused
        try:
            rights.check_acl(file.acl_id)
        except MdmError as error:
            return error
        if any(claimed.get(replica.surl, file.guid) != file.guid for replica in file.replicas):
            return Conflict("SURL_TAKEN", "One of the SURLs is a replica of another file.")
        claimed.update((replica.surl, file.guid) for replica in file.replicas)
        return None

    return [refusal(file) for file in files]


def _refreshed(chain: Chain, directory: Node) -> Chain:
    """Return `chain` as it is now that its last directory is locked."""
    assert directory.default_acl_id is not None
    return replace(chain, acl_ids=(*chain.acl_ids[:-1], directory.acl_id), default_acl_id=directory.default_acl_id)


def _taken() -> Conflict:
    return Conflict("LFN_TAKEN", "This LFN is taken by another entry.")
