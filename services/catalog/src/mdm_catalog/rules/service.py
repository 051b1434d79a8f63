"""The use cases of the catalog."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

from mdm_service.access.acl import Acl
from mdm_service.access.change import AclChange
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Forbidden, Invalid, MdmError, Unauthenticated
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission

from mdm_catalog.rules import change, creation, removal, renaming, replica, subtree, transaction
from mdm_catalog.rules.access import Located, Rights, file_outcome_of, outcome_of
from mdm_catalog.rules.listing import Listing
from mdm_catalog.rules.lookup import locate
from mdm_catalog.rules.model import (
    AccessReport,
    AclAssignment,
    EntryView,
    FileChange,
    FileReplicas,
    NewDirectory,
    NewFile,
    NewLink,
    NewReplica,
    Node,
    Renaming,
    ReplicaChange,
    ReplicaSearch,
    Resolution,
    SubtreeAcl,
    Target,
    Usage,
)
from mdm_catalog.rules.pattern import Condition
from mdm_catalog.rules.port import People, Reading, Store
from mdm_catalog.rules.transaction import Failed, Operation
from mdm_catalog.rules.usage import sum_up
from mdm_catalog.rules.value import MAX_ACL_CHANGES, MAX_RENAMINGS, check_batch

T = TypeVar("T")
Outcome: TypeAlias = MdmError | None


class CatalogService:
    """What callers may ask of the catalog. Every list of results has one item per item asked, in the order asked.

    A batch of more than 10,000 raises Invalid; what is wrong with one item stands in its result.
    """

    def __init__(self, store: Store, people: People) -> None:
        self._store = store
        self._people = people

    def make_directories(self, caller: Caller, wanted: Sequence[NewDirectory], *, parents: bool) -> list[Outcome]:
        """Make directories; see `creation.make_directories`."""
        check_batch(wanted)
        return self._store.write(lambda writing: creation.make_directories(writing, caller, wanted, parents=parents))

    def register_files(self, caller: Caller, files: Sequence[NewFile]) -> list[Outcome]:
        """Register files; see `creation.register_files`."""
        check_batch(files)
        return self._store.write(lambda writing: creation.register_files(writing, caller, files))

    def remove(self, caller: Caller, targets: Sequence[Target], *, recursive: bool) -> list[Outcome]:
        """Remove entries; see `removal.remove`."""
        check_batch(targets)
        return self._store.write(lambda writing: removal.remove(writing, caller, targets, recursive=recursive))

    def make_links(self, caller: Caller, links: Sequence[NewLink]) -> list[Outcome]:
        """Make symbolic links; see `creation.make_links`."""
        check_batch(links)
        return self._store.write(lambda writing: creation.make_links(writing, caller, links))

    def rename(self, caller: Caller, renamings: Sequence[Renaming]) -> list[Outcome]:
        """Rename entries; see `renaming.rename`. At most 1,000."""
        check_batch(renamings, MAX_RENAMINGS)
        return self._store.write(lambda writing: renaming.rename(writing, caller, renamings))

    def listing(self, caller: Caller, lfn: Lfn, *, recursive: bool, with_replicas: bool, after: Lfn | None) -> Iterator[list[EntryView]]:
        """List a directory, a file or a link; see `listing.Listing.batches`."""
        depth = 0 if recursive else 1
        return Listing(self._store, caller, depth=depth, with_replicas=with_replicas).batches(lfn, after)

    def find(
        self, caller: Caller, lfn: Lfn, condition: Condition, *, depth: int, with_replicas: bool, after: Lfn | None
    ) -> Iterator[list[EntryView]]:
        """List what meets a condition, down to `depth` (0: everywhere); see `listing.Listing.batches`."""
        return Listing(self._store, caller, depth=depth, with_replicas=with_replicas, condition=condition).batches(lfn, after)

    def usage(self, caller: Caller, lfn: Lfn, depth: int) -> list[Usage]:
        """Sum up a directory and, down to `depth`, those below it; see `usage.sum_up`."""
        return self._store.read(lambda reading: sum_up(reading, caller, lfn, depth))

    def stat(self, caller: Caller, targets: Sequence[Target], *, with_replicas: bool, follow: bool = True) -> list[EntryView | MdmError]:
        """Return the entries that the caller may see; a link itself unless `follow`."""
        check_batch(targets)

        def work(reading: Reading) -> list[EntryView | MdmError]:
            located, rights = _find(reading, caller, targets, follow=follow)
            seen = [outcome_of(item, rights.unseen(item)) for item in located]
            ids = {node.id for node in seen if isinstance(node, Node)}
            entries = reading.entries(ids)
            replicas = reading.replicas(ids) if with_replicas else {}
            return [
                EntryView(item.lfn, entries[node.id], rights.under(node.acl_id), replicas.get(node.id, ()))
                if isinstance(node, Node)
                else node
                for item, node in zip(located, seen, strict=True)
            ]

        return self._store.read(work)

    def resolve(self, caller: Caller, targets: Sequence[Target]) -> list[Resolution | MdmError]:
        """Return where the files are that the caller may read."""
        check_batch(targets)

        def work(reading: Reading) -> list[Resolution | MdmError]:
            located, rights = _find(reading, caller, targets)
            readable = [file_outcome_of(item, rights.refusal(item, Permission.READ)) for item in located]
            surls = reading.available({node.id for node in readable if isinstance(node, Node)})
            results: list[Resolution | MdmError] = []
            for item, node in zip(located, readable, strict=True):
                if isinstance(node, MdmError):
                    results.append(node)
                else:
                    assert node.guid is not None
                    results.append(Resolution(node.guid, item.lfn, surls.get(node.id, ()), node.size))
            return results

        return self._store.read(work)

    def check_access(self, subject: str, targets: Sequence[Target], needed: Permission) -> list[Node | MdmError]:
        """Return the files on which the subject holds all of `needed`, by what the catalog itself knows of its groups.

        Raises:
            Invalid: the subject is not a DN, or no permission is asked.
        """
        check_batch(targets)
        if not needed:
            raise Invalid("PERMISSIONS_MISSING", "permissions is empty: say what is to be checked.")
        try:
            subject_caller = self._people.caller_for(subject)
        except Unauthenticated as error:
            return [Forbidden(error.reason, error.message) for _ in targets]

        def work(reading: Reading) -> list[Node | MdmError]:
            located, rights = _find(reading, subject_caller, targets)
            return [file_outcome_of(item, rights.refusal(item, needed)) for item in located]

        return self._store.read(work)

    def set_attributes(self, caller: Caller, changes: Sequence[FileChange]) -> list[Outcome]:
        """Change attributes of files, comments of any entry; see `change.set_attributes`."""
        check_batch(changes)
        return self._store.write(lambda writing: change.set_attributes(writing, caller, changes))

    def assign_acls(self, caller: Caller, assignments: Sequence[AclAssignment]) -> list[Outcome]:
        """Point entries at other ACLs; see `change.assign_acls`."""
        check_batch(assignments)
        return self._store.write(lambda writing: change.assign_acls(writing, caller, assignments))

    def add_replicas(self, caller: Caller, replicas: Sequence[NewReplica]) -> list[Outcome]:
        """Add replicas to files; see `replica.add`."""
        check_batch(replicas)
        return self._store.write(lambda writing: replica.add(writing, caller, replicas))

    def change_replicas(self, caller: Caller, changes: Sequence[ReplicaChange]) -> list[Outcome]:
        """Change replicas; see `replica.change`."""
        check_batch(changes)
        return self._store.write(lambda writing: replica.change(writing, caller, changes))

    def remove_replicas(self, caller: Caller, surls: Sequence[str]) -> list[Outcome]:
        """Remove replicas; see `replica.remove`."""
        check_batch(surls)
        return self._store.write(lambda writing: replica.remove(writing, caller, surls))

    def list_replicas(self, caller: Caller, targets: Sequence[Target]) -> list[FileReplicas | MdmError]:
        """List the replicas of files; see `replica.list_of`."""
        check_batch(targets)
        return self._store.read(lambda reading: replica.list_of(reading, caller, targets))

    def find_replicas(self, caller: Caller, search: ReplicaSearch, after: str) -> Iterator[list[FileReplicas]]:
        """List the replicas of a set or a host; see `replica.find`."""
        return replica.find(self._store, caller, search, after)

    def apply(self, caller: Caller, operations: Sequence[Operation]) -> Failed | None:
        """Apply operations wholly, or not at all and return which failed; see `transaction.apply`."""
        check_batch(operations)
        check_batch([item for item in operations if isinstance(item, Renaming)], MAX_RENAMINGS)
        try:
            self._store.write(lambda writing: transaction.apply(writing, caller, operations))
        except Failed as failed:
            return failed
        return None

    def subtree_acls(self, caller: Caller, target: Target) -> tuple[list[SubtreeAcl], int]:
        """Return the ACLs of a subtree; see `subtree.list_acls`."""
        return self._store.read(lambda reading: subtree.list_acls(reading, caller, target))

    def modify_subtree_acls(
        self, caller: Caller, target: Target, changes: Sequence[AclChange], *, include_shared: bool
    ) -> tuple[list[tuple[SubtreeAcl, Acl | MdmError]], int]:
        """Change the ACLs of a subtree as one; see `subtree.modify_acls`. At most 100 changes."""
        check_batch(changes, MAX_ACL_CHANGES)
        return self._store.write(lambda writing: subtree.modify_acls(writing, caller, target, changes, include_shared=include_shared))

    def report_access(self, caller: Caller, target: Target, needed: Permission) -> AccessReport:
        """Tell who holds `needed`; see `subtree.report_access`."""
        return self._store.read(
            lambda reading: subtree.report_access(reading, caller, target, needed, self._people.caller_for, self._people.members_of)
        )


def _find(reading: Reading, caller: Caller, targets: Sequence[Target], *, follow: bool = True) -> tuple[list[Located], Rights]:
    rights = Rights(reading, caller)
    return locate(reading, rights, targets, follow=follow), rights
