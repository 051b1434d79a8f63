"""Changing attributes and access control lists of entries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Invalid, MdmError
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, file_outcome_of, outcome_of
from mdm_catalog.rules.model import ROOT_ID, AclAssignment, EntryKind, Failure, FileChange, Node
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import Writing

C = TypeVar("C", FileChange, AclAssignment)


def set_attributes(writing: Writing, caller: Caller, changes: Sequence[FileChange]) -> list[Failure]:
    """Change attributes of files, comments of any entry; return what went wrong with each."""

    def check(rights: Rights, location: Location, change: FileChange) -> Node | MdmError:
        outcome = outcome_of if change.of_any_entry else file_outcome_of
        node = outcome(location, rights.refusal(location, Permission.SET))
        if isinstance(node, Node) and change.if_rev not in (None, node.rev):
            return Aborted("REV_CHANGED", "The entry was changed meanwhile: read it again and retry.")
        return node

    return _change(writing, caller, changes, check, writing.update_files)


def assign_acls(writing: Writing, caller: Caller, assignments: Sequence[AclAssignment]) -> list[Failure]:
    """Point entries at other ACLs; the caller needs `p` under the present and under the new ones."""

    def check(rights: Rights, location: Location, change: AclAssignment) -> Node | MdmError:
        node = outcome_of(location, rights.refusal(location, Permission.CHANGE_ACL))
        if isinstance(node, MdmError):
            return node
        if node.id == ROOT_ID:
            return Invalid("ROOT_FIXED", "The root's ACL is part of the service's configuration.")
        if node.kind != EntryKind.DIRECTORY and change.default_acl_id is not None:
            return Invalid("DEFAULT_ACL_OF_FILE", "Only a directory has a default ACL.")
        return rights.acl_refusal(change.acl_id, change.default_acl_id) or node

    def apply(ready: Sequence[tuple[int, AclAssignment]]) -> None:
        writing.update_acls([(entry_id, change.acl_id, change.default_acl_id) for entry_id, change in ready])

    return _change(writing, caller, assignments, check, apply)


def _change(
    writing: Writing,
    caller: Caller,
    changes: Sequence[C],
    check: Callable[[Rights, Location, C], Node | MdmError],
    apply: Callable[[list[tuple[int, C]]], None],
) -> list[Failure]:
    """Check changes against the locked entries and apply those that may be; one call changes an entry at most once."""
    rights = Rights(writing, caller)
    locations = locate(writing, rights, [change.target for change in changes])
    locked = writing.lock_entries({item.node.id for item in locations if item.node is not None})
    ready: dict[int, C] = {}

    def outcome(item: Location, change: C) -> Failure:
        current = locked.get(item.node.id) if item.node is not None else None
        node = check(rights, replace(item, node=current), change)
        if isinstance(node, MdmError):
            return node
        if node.id in ready:
            return Invalid("ENTRY_TWICE", "This call changes the same entry twice: send one change per entry.")
        ready[node.id] = change
        return None

    outcomes = [outcome(item, change) for item, change in zip(locations, changes, strict=True)]
    apply(list(ready.items()))
    return outcomes
