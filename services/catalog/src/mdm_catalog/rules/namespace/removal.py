"""Removing files and directories."""

from collections.abc import Sequence

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, FailedPrecondition, Forbidden, MdmError
from mdm_wire.path import names
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Rights, not_found
from mdm_catalog.rules.model import EntryKind, Failure, Node, Target
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import Writing


def remove(writing: Writing, caller: Caller, targets: Sequence[Target], *, recursive: bool) -> list[Failure]:
    """Remove entries; return what went wrong with each.

    Files and links go first, then directories: the deepest first, so that one call may name a directory and its contents; with
    `recursive` the shallowest first, each wholly or not at all.
    """
    rights = Rights(writing, caller)
    locations = locate(writing, rights, targets, follow=False)
    outcomes: list[Failure] = [rights.removing_refusal(item) for item in locations]
    nodes = {item.node.id: item.node for item, outcome in zip(locations, outcomes, strict=True) if outcome is None and item.node}
    depths = {item.node.id: len(names(item.lfn)) for item in locations if item.node is not None and item.chain is not None}
    failed = _vanished(nodes, writing.lock_for_removal(nodes))
    present = [node for node in nodes.values() if node.id not in failed]
    writing.remove([node.id for node in present if node.kind != EntryKind.DIRECTORY])
    directories = sorted((node for node in present if node.kind == EntryKind.DIRECTORY), key=lambda node: depths[node.id])
    failed |= _remove_trees(writing, rights, directories) if recursive else _remove_empty(writing, directories, depths)
    return [
        failed.get(item.node.id) if outcome is None and item.node else outcome for item, outcome in zip(locations, outcomes, strict=True)
    ]


def _vanished(before: dict[int, Node], after: dict[int, Node]) -> dict[int, MdmError]:
    """Return what happened to entries between finding and locking them."""
    failed: dict[int, MdmError] = {}
    for entry_id, node in before.items():
        now = after.get(entry_id)
        if now is None:
            failed[entry_id] = not_found()
        elif (now.parent_id, now.name, now.acl_id) != (node.parent_id, node.name, node.acl_id):
            failed[entry_id] = Aborted("ENTRY_CHANGED", "The entry was changed meanwhile: look again and retry.")
    return failed


def _remove_empty(writing: Writing, directories: Sequence[Node], depths: dict[int, int]) -> dict[int, MdmError]:
    levels: dict[int, list[int]] = {}
    for node in directories:
        levels.setdefault(depths[node.id], []).append(node.id)
    removed: set[int] = set()
    for depth in sorted(levels, reverse=True):
        removed |= writing.remove_empty(levels[depth])
    full = FailedPrecondition("DIRECTORY_NOT_EMPTY", "The directory is not empty: remove it recursively, or its contents first.")
    return {node.id: full for node in directories if node.id not in removed}


def _remove_trees(writing: Writing, rights: Rights, directories: Sequence[Node]) -> dict[int, MdmError]:
    """Remove each directory with everything below; `directories` are shallow first, so one within another goes with it."""
    failed: dict[int, MdmError] = {}
    gone: set[int] = set()
    for node in directories:
        if node.id in gone:
            continue
        below = writing.lock_subtree(node.id)
        pairs = writing.removal_acls(below)
        rights.load(acl_id for pair in pairs for acl_id in pair)
        if all(_may_remove(rights.under(parent), rights.under(child)) for parent, child in pairs):
            writing.remove_children(below)
            writing.remove([node.id])
            gone.update(below)
        else:
            failed[node.id] = Forbidden("REMOVAL_FORBIDDEN", "Something below may not be removed by you; nothing was.")
    return {entry_id: error for entry_id, error in failed.items() if entry_id not in gone}


def _may_remove(parent: Permission, child: Permission) -> bool:
    in_parent = Permission.WRITE | Permission.TRAVERSE
    return parent & in_parent == in_parent and bool(child & Permission.DELETE)
