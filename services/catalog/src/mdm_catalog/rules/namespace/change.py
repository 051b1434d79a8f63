"""Changing entries (their attributes, their ACLs, their names) and removing them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Conflict, FailedPrecondition, Failure, Forbidden, Invalid, MdmError
from mdm_wire.path import MAX_PATH_BYTES, ROOT, join, names, split
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, entry_of, file_of, not_found
from mdm_catalog.rules.model import ROOT_ID, AclAssignment, Chain, EntryKind, FileChange, Node, Renaming, Target
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import WriteTransaction

C = TypeVar("C", FileChange, AclAssignment)


def set_attributes(writing: WriteTransaction, caller: Caller, changes: Sequence[FileChange]) -> list[Failure]:
    """Change attributes of files, comments of any entry; return what went wrong with each."""

    def check(rights: Rights, location: Location, change: FileChange) -> Node | MdmError:
        found = entry_of if change.of_any_entry else file_of
        node = found(location, rights.why_refused(location, Permission.SET))
        if isinstance(node, Node) and change.if_rev not in (None, node.rev):
            return Aborted("REV_CHANGED", "The entry was changed meanwhile: read it again and retry.")
        return node

    return _change(writing, caller, changes, check, writing.update_files)


def assign_acls(writing: WriteTransaction, caller: Caller, assignments: Sequence[AclAssignment]) -> list[Failure]:
    """Point entries at other ACLs; the caller needs `p` under the present and under the new ones."""

    def check(rights: Rights, location: Location, change: AclAssignment) -> Node | MdmError:
        node = entry_of(location, rights.why_refused(location, Permission.CHANGE_ACL))
        if isinstance(node, MdmError):
            return node
        if node.id == ROOT_ID:
            return Invalid("ROOT_FIXED", "The root's ACL is part of the service's configuration.")
        if node.kind != EntryKind.DIRECTORY and change.default_acl_id is not None:
            return Invalid("DEFAULT_ACL_OF_FILE", "Only a directory has a default ACL.")
        return rights.why_acl_refused(change.acl_id, change.default_acl_id) or node

    def apply(ready: Sequence[tuple[int, AclAssignment]]) -> None:
        writing.update_acls([(entry_id, change.acl_id, change.default_acl_id) for entry_id, change in ready])

    return _change(writing, caller, assignments, check, apply)


def _change(
    writing: WriteTransaction,
    caller: Caller,
    changes: Sequence[C],
    check: Callable[[Rights, Location, C], Node | MdmError],
    apply: Callable[[list[tuple[int, C]]], None],
) -> list[Failure]:
    """Check changes against the locked entries and apply those that are permitted; one call changes an entry at most once."""
    rights = Rights(writing, caller)
    locations = locate(writing, rights, [change.target for change in changes])
    locked = writing.lock_entries({item.node.id for item in locations if item.node is not None})
    ready: dict[int, C] = {}

    def failure_of(item: Location, change: C) -> Failure:
        current = locked.get(item.node.id) if item.node is not None else None
        node = check(rights, replace(item, node=current), change)
        if isinstance(node, MdmError):
            return node
        if node.id in ready:
            return Invalid("ENTRY_TWICE", "This call changes the same entry twice: send one change per entry.")
        ready[node.id] = change
        return None

    failures = [failure_of(item, change) for item, change in zip(locations, changes, strict=True)]
    apply(list(ready.items()))
    return failures


def rename(writing: WriteTransaction, caller: Caller, renamings: Sequence[Renaming]) -> list[Failure]:
    """Rename entries in order; return what went wrong with each.

    The entry keeps its ACL, and so does everything below a directory.
    """
    return [_rename(writing, Rights(writing, caller), renaming) for renaming in renamings]


@dataclass(frozen=True)
class _Move:
    """An entry and its new place; both have been found, and the caller may move it."""

    source: Location
    node: Node
    parent: Chain
    name: str
    present: Location

    @property
    def within_directory(self) -> bool:
        """Whether the entry stays in its directory."""
        return self.node.parent_id == self.parent.directory_id


def _rename(writing: WriteTransaction, rights: Rights, renaming: Renaming) -> MdmError | None:
    move = _find(writing, rights, renaming)
    if isinstance(move, _Move) and move.node.kind == EntryKind.DIRECTORY and not move.within_directory:
        writing.lock_moves()
        move = _find(writing, rights, renaming)  # where everything is now that no directory moves any more
    stale = _lock(writing, move) if isinstance(move, _Move) else None
    if stale is not None:
        move = _find(writing, rights, renaming)  # what changed before the lock is known now, and most of it is locked
        stale = _lock(writing, move) if isinstance(move, _Move) else None
    if not isinstance(move, _Move) or stale is not None:
        return stale if isinstance(move, _Move) else move
    if move.present.node is not None:
        if move.present.node.id == move.node.id:
            return None
        refusal = _make_way(writing, rights, move) if renaming.replace else _taken()
        if refusal is not None:
            return refusal
    refusal = _impossible(writing, move)
    if refusal is None:
        writing.move(move.node.id, move.parent.directory_id, move.name)
    return refusal


def _find(writing: WriteTransaction, rights: Rights, renaming: Renaming) -> _Move | MdmError:
    if renaming.lfn == ROOT:
        return _taken()
    source, present = locate(writing, rights, [renaming.source, Target(lfn=renaming.lfn)], follow=False)
    refusal = rights.why_not_removable(source)
    if refusal is not None or source.node is None:
        return refusal or not_found()
    if present.chain is None:
        return present.problem or not_found()
    refusal = rights.why_blocked(present.chain) or rights.why_not_writable(present.chain)
    if refusal is not None:
        return refusal
    return _Move(source, source.node, present.chain, split(renaming.lfn)[1], present)


def _lock(writing: WriteTransaction, move: _Move) -> MdmError | None:
    """Lock the entry and both directories; return an error if they have changed."""
    assert move.node.parent_id is not None
    wanted = {move.node.parent_id, move.parent.directory_id}
    directories = writing.lock_directories(wanted)
    entry = writing.lock_for_removal([move.node.id]).get(move.node.id)
    if entry is None or len(directories) != len(wanted):
        return not_found()
    same = (entry.parent_id, entry.name, entry.acl_id) == (move.node.parent_id, move.node.name, move.node.acl_id)
    same = same and directories[move.parent.directory_id].acl_id == move.parent.acl_ids[-1]
    place = (move.parent.directory_id, move.name)
    at_place = writing.children([place]).get(place)
    same = same and (at_place and at_place.id) == (move.present.node and move.present.node.id)
    return None if same else Aborted("ENTRY_CHANGED", "The entry was changed meanwhile: look again and retry.")


def _make_way(writing: WriteTransaction, rights: Rights, move: _Move) -> MdmError | None:
    """Remove the entry at the new path if permitted: a file or link gives way to a file or link, an empty directory to a directory."""
    node = move.present.node
    assert node is not None
    refusal = rights.why_not_removable(move.present)
    if refusal is not None:
        return refusal
    if (node.kind == EntryKind.DIRECTORY) != (move.node.kind == EntryKind.DIRECTORY):
        return _taken()
    impossible = _impossible(writing, move)
    if impossible is not None:
        return impossible
    if node.kind != EntryKind.DIRECTORY:
        writing.remove([node.id])
    elif not writing.remove_empty([node.id]):
        return FailedPrecondition("DIRECTORY_NOT_EMPTY", "The directory that has the new path is not empty.")
    return None


def _impossible(writing: WriteTransaction, move: _Move) -> MdmError | None:
    """Return why a directory cannot be moved: into itself, or because paths below it would become too long."""
    if move.node.kind != EntryKind.DIRECTORY:
        return None
    if not move.within_directory and move.node.id in writing.above(move.parent.directory_id):
        return Invalid("MOVE_INTO_ITSELF", "A directory cannot be moved into itself or below itself.")
    after, before = join(move.parent.lfn, move.name).encode(), move.source.lfn.encode()
    if len(after) > len(before) and not writing.fits(move.node.id, MAX_PATH_BYTES - len(after)):
        return Invalid("LFN_INVALID", f"Paths below the directory would be longer than {MAX_PATH_BYTES:,} bytes.")
    return None


def _taken() -> Conflict:
    return Conflict("LFN_TAKEN", "This LFN is taken by another entry.")


def remove(writing: WriteTransaction, caller: Caller, targets: Sequence[Target], *, recursive: bool) -> list[Failure]:
    """Remove entries; return what went wrong with each.

    Files and links go first, then directories: the deepest first, so that one call may name a directory and its contents; with
    `recursive` the shallowest first, each wholly or not at all.
    """
    rights = Rights(writing, caller)
    locations = locate(writing, rights, targets, follow=False)
    failures: list[Failure] = [rights.why_not_removable(item) for item in locations]
    nodes = {item.node.id: item.node for item, failure in zip(locations, failures, strict=True) if failure is None and item.node}
    depths = {item.node.id: len(names(item.lfn)) for item in locations if item.node is not None and item.chain is not None}
    failed = _stale(nodes, writing.lock_for_removal(nodes))
    present = [node for node in nodes.values() if node.id not in failed]
    writing.remove([node.id for node in present if node.kind != EntryKind.DIRECTORY])
    directories = sorted((node for node in present if node.kind == EntryKind.DIRECTORY), key=lambda node: depths[node.id])
    failed |= _remove_trees(writing, rights, directories) if recursive else _remove_empty(writing, directories, depths)
    return [
        failed.get(item.node.id) if failure is None and item.node else failure for item, failure in zip(locations, failures, strict=True)
    ]


def _stale(before: dict[int, Node], after: dict[int, Node]) -> dict[int, MdmError]:
    """Return which entries changed between finding and locking them, each with its error."""
    failed: dict[int, MdmError] = {}
    for entry_id, node in before.items():
        now = after.get(entry_id)
        if now is None:
            failed[entry_id] = not_found()
        elif (now.parent_id, now.name, now.acl_id) != (node.parent_id, node.name, node.acl_id):
            failed[entry_id] = Aborted("ENTRY_CHANGED", "The entry was changed meanwhile: look again and retry.")
    return failed


def _remove_empty(writing: WriteTransaction, directories: Sequence[Node], depths: dict[int, int]) -> dict[int, MdmError]:
    levels: dict[int, list[int]] = {}
    for node in directories:
        levels.setdefault(depths[node.id], []).append(node.id)
    removed: set[int] = set()
    for depth in sorted(levels, reverse=True):
        removed |= writing.remove_empty(levels[depth])
    full = FailedPrecondition("DIRECTORY_NOT_EMPTY", "The directory is not empty: remove it recursively, or its contents first.")
    return {node.id: full for node in directories if node.id not in removed}


def _remove_trees(writing: WriteTransaction, rights: Rights, directories: Sequence[Node]) -> dict[int, MdmError]:
    """Remove each directory with everything below; `directories` are shallow first, so one within another goes with it."""
    failed: dict[int, MdmError] = {}
    removed: set[int] = set()
    for node in directories:
        if node.id in removed:
            continue
        below = writing.lock_subtree(node.id)
        pairs = writing.removal_acls(below)
        rights.load(acl_id for pair in pairs for acl_id in pair)
        if all(_may_remove(rights.permissions_under(parent), rights.permissions_under(child)) for parent, child in pairs):
            writing.remove_children(below)
            writing.remove([node.id])
            removed.update(below)
        else:
            failed[node.id] = Forbidden("REMOVAL_FORBIDDEN", "Something below may not be removed by you; nothing was.")
    return {entry_id: error for entry_id, error in failed.items() if entry_id not in removed}


def _may_remove(parent: Permission, child: Permission) -> bool:
    in_parent = Permission.WRITE | Permission.TRAVERSE
    return parent & in_parent == in_parent and bool(child & Permission.DELETE)
