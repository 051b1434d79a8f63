"""The use cases of the catalog."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from mdm_service.acl import Permission
from mdm_service.errors import Aborted, Forbidden, Invalid, MdmError, Unauthenticated
from mdm_service.identity import Caller

from mdm_catalog import creation, removal, renaming
from mdm_catalog.access import Located, Rights, not_found
from mdm_catalog.listing import Listing
from mdm_catalog.lookup import locate
from mdm_catalog.model import (
    MAX_RENAMINGS,
    ROOT_ID,
    AclAssignment,
    EntryKind,
    EntryView,
    FileChange,
    NewDirectory,
    NewFile,
    NewLink,
    Node,
    Renaming,
    Resolution,
    SubtreeAcl,
    Target,
    Usage,
    check_batch,
)
from mdm_catalog.path import Lfn
from mdm_catalog.pattern import Condition
from mdm_catalog.port import Reading, Store, Writing
from mdm_catalog.usage import sum_up

T = TypeVar("T")
C = TypeVar("C", FileChange, AclAssignment)
Outcome: TypeAlias = MdmError | None


class CatalogService:
    """What callers may ask of the catalog. Every list of results has one item per item asked, in the order asked.

    A batch of more than 10,000 raises Invalid; what is wrong with one item stands in its result.
    """

    def __init__(self, store: Store, caller_for: Callable[[str], Caller]) -> None:
        self._store = store
        self._caller_for = caller_for

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
            seen = [_outcome(item, rights.unseen(item)) for item in located]
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
            readable = [_file_outcome(item, rights.refusal(item, Permission.READ)) for item in located]
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
            subject_caller = self._caller_for(subject)
        except Unauthenticated as error:
            return [Forbidden(error.reason, error.message) for _ in targets]

        def work(reading: Reading) -> list[Node | MdmError]:
            located, rights = _find(reading, subject_caller, targets)
            return [_file_outcome(item, rights.refusal(item, needed)) for item in located]

        return self._store.read(work)

    def set_attributes(self, caller: Caller, changes: Sequence[FileChange]) -> list[Outcome]:
        """Change attributes of files, comments of any entry."""
        check_batch(changes)

        def check(rights: Rights, located: Located, change: FileChange) -> Node | MdmError:
            outcome = _outcome if change.of_any_entry else _file_outcome
            node = outcome(located, rights.refusal(located, Permission.SET))
            if isinstance(node, Node) and change.if_rev not in (None, node.rev):
                return Aborted("REV_CHANGED", "The entry was changed meanwhile: read it again and retry.")
            return node

        return self._store.write(lambda writing: _change(writing, caller, changes, check, writing.update_files))

    def assign_acls(self, caller: Caller, assignments: Sequence[AclAssignment]) -> list[Outcome]:
        """Point entries at other ACLs; the caller needs `p` under the present and under the new ones."""
        check_batch(assignments)

        def check(rights: Rights, located: Located, change: AclAssignment) -> Node | MdmError:
            node = _outcome(located, rights.refusal(located, Permission.CHANGE_ACL))
            if isinstance(node, MdmError):
                return node
            if node.id == ROOT_ID:
                return Invalid("ROOT_FIXED", "The root's ACL is part of the service's configuration.")
            if node.kind != EntryKind.DIRECTORY and change.default_acl_id is not None:
                return Invalid("DEFAULT_ACL_OF_FILE", "Only a directory has a default ACL.")
            return rights.acl_refusal(change.acl_id, change.default_acl_id) or node

        def apply(writing: Writing, ready: Sequence[tuple[int, AclAssignment]]) -> None:
            writing.update_acls([(entry_id, change.acl_id, change.default_acl_id) for entry_id, change in ready])

        return self._store.write(lambda writing: _change(writing, caller, assignments, check, lambda ready: apply(writing, ready)))

    def subtree_acls(self, caller: Caller, target: Target) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs of an entry and of what the caller may list below, and how much it was not shown.

        Shown are ACLs with `g`; counted are the others, or the directories that the caller may not look into if these are more.

        Raises:
            NotFound, Forbidden: the caller may not see the entry.
        """

        def work(reading: Reading) -> tuple[list[SubtreeAcl], int]:
            located, rights = _find(reading, caller, [target])
            top = _outcome(located[0], rights.unseen(located[0]))
            if isinstance(top, MdmError):
                raise top
            found, closed = reading.subtree_acls(caller, top.id)
            rights.load(acl.acl_id for acl in found)
            shown = [acl for acl in found if rights.under(acl.acl_id) & Permission.GET]
            return shown, max(len(found) - len(shown), closed)

        return self._store.read(work)


def _find(reading: Reading, caller: Caller, targets: Sequence[Target], *, follow: bool = True) -> tuple[list[Located], Rights]:
    rights = Rights(reading, caller)
    return locate(reading, rights, targets, follow=follow), rights


def _outcome(located: Located, refusal: MdmError | None) -> Node | MdmError:
    return refusal or located.node or not_found()


def _file_outcome(located: Located, refusal: MdmError | None) -> Node | MdmError:
    if refusal is None and located.node is not None and located.node.kind != EntryKind.FILE:
        return Invalid("NOT_A_FILE", "This is not a file.")
    return _outcome(located, refusal)


def _change(
    writing: Writing,
    caller: Caller,
    changes: Sequence[C],
    check: Callable[[Rights, Located, C], Node | MdmError],
    apply: Callable[[list[tuple[int, C]]], None],
) -> list[Outcome]:
    """Check changes against the locked entries and apply those that may be; one call changes an entry at most once."""
    located, rights = _find(writing, caller, [change.target for change in changes])
    locked = writing.lock_entries({item.node.id for item in located if item.node is not None})
    ready: dict[int, C] = {}

    def outcome(item: Located, change: C) -> Outcome:
        current = locked.get(item.node.id) if item.node is not None else None
        node = check(rights, Located(item.target, item.chain, current), change)
        if isinstance(node, MdmError):
            return node
        if node.id in ready:
            return Invalid("ENTRY_TWICE", "This call changes the same entry twice: send one change per entry.")
        ready[node.id] = change
        return None

    outcomes = [outcome(item, change) for item, change in zip(located, changes, strict=True)]
    apply(list(ready.items()))
    return outcomes
