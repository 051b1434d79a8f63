"""Renaming entries: one row, whatever lies below it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Conflict, FailedPrecondition, Invalid, MdmError
from mdm_wire.path import MAX_PATH_BYTES, ROOT, join, split

from mdm_catalog.rules.access import Location, Rights, not_found
from mdm_catalog.rules.model import Chain, EntryKind, Failure, Node, Renaming, Target
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import Writing


def rename(writing: Writing, caller: Caller, renamings: Sequence[Renaming]) -> list[Failure]:
    """Rename entries in order; return what went wrong with each.

    The entry keeps its ACL, and so does everything below a directory.
    """
    return [_rename(writing, Rights(writing, caller), renaming) for renaming in renamings]


@dataclass(frozen=True)
class _Move:
    """An entry, and the place it is to have; all of it found and permitted."""

    source: Location
    node: Node
    parent: Chain
    name: str
    present: Location

    @property
    def within_directory(self) -> bool:
        """Whether the entry stays in its directory."""
        return self.node.parent_id == self.parent.directory_id


def _rename(writing: Writing, rights: Rights, renaming: Renaming) -> MdmError | None:
    move = _find(writing, rights, renaming)
    if isinstance(move, _Move) and move.node.kind == EntryKind.DIRECTORY and not move.within_directory:
        writing.lock_moves()
        move = _find(writing, rights, renaming)  # where everything is now that no directory moves any more
    stale = _lock(writing, move) if isinstance(move, _Move) else None
    if stale is not None:
        move = _find(writing, rights, renaming)  # what changed before the lock is known now, and most of it stays
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


def _find(writing: Writing, rights: Rights, renaming: Renaming) -> _Move | MdmError:
    if renaming.lfn == ROOT:
        return _taken()
    source, present = locate(writing, rights, [renaming.source, Target(lfn=renaming.lfn)], follow=False)
    refusal = rights.removing_refusal(source)
    if refusal is not None or source.node is None:
        return refusal or not_found()
    if present.chain is None:
        return present.problem or not_found()
    refusal = rights.obstacle(present.chain) or rights.making_refusal(present.chain)
    if refusal is not None:
        return refusal
    return _Move(source, source.node, present.chain, split(renaming.lfn)[1], present)


def _lock(writing: Writing, move: _Move) -> MdmError | None:
    """Lock the entry and both directories; return that they changed, if they did."""
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


def _make_way(writing: Writing, rights: Rights, move: _Move) -> MdmError | None:
    """Remove what has the new path, if it may be: a file or link for one of these, an empty directory for a directory."""
    node = move.present.node
    assert node is not None
    refusal = rights.removing_refusal(move.present)
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


def _impossible(writing: Writing, move: _Move) -> MdmError | None:
    """Return why a directory cannot be where it is to be: within itself, or with paths below it that are too long."""
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
