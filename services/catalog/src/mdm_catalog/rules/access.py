"""The access rules: who may traverse, see and change what, and whether a refusal is NotFound or Forbidden."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mdm_service.access.acl import narrowed
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Forbidden, Invalid, MdmError, NotFound
from mdm_wire.path import ROOT, Lfn, join
from mdm_wire.permission import Permission, format_permissions

from mdm_catalog.rules.model import ROOT_ID, Chain, EntryKind, Node, Target
from mdm_catalog.rules.port import ReadTransaction

#: What a job may do under access lists that its delegation leaves out: get to its paths, and see names there.
_WAY = Permission.TRAVERSE | Permission.LIST | Permission.GET


@dataclass(frozen=True, slots=True)
class Location:
    """A target with the directories above it and, where it exists, its entry; `problem` is the error of a path that cannot be followed."""

    target: Target
    chain: Chain | None
    node: Node | None
    problem: MdmError | None = None

    @property
    def lfn(self) -> Lfn:
        """The path of an entry that exists."""
        assert self.chain is not None and self.node is not None
        return ROOT if self.node.id == ROOT_ID else join(self.chain.lfn, self.node.name)


def not_found() -> NotFound:
    """Return the error both for an entry that does not exist and for one that the caller may not know of."""
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


def entry_of(location: Location, refusal: MdmError | None) -> Node | MdmError:
    """Return the entry of a target, or the refusal."""
    return refusal or location.node or not_found()


def file_of(location: Location, refusal: MdmError | None) -> Node | MdmError:
    """Return the file of a target, or the refusal, also where the entry is not a file."""
    if refusal is None and location.node is not None and location.node.kind != EntryKind.FILE:
        return Invalid("NOT_A_FILE", "This is not a file.")
    return entry_of(location, refusal)


class Rights:
    """The permissions of one caller, fetched once per ACL, and the refusals that follow from them.

    The methods `why_…` return the error of a refusal, or None if the caller may. They do not raise it: a batch may have ten thousand.
    """

    def __init__(self, reading: ReadTransaction, caller: Caller) -> None:
        self._reading = reading
        self._caller = caller
        self._held: dict[UUID, Permission] = {}
        # By identity of the chain, which the value keeps alive: a chain read again after locking is another one.
        self._blocks: dict[int, tuple[Chain, MdmError | None]] = {}
        self._refusals: dict[tuple[int, UUID, Permission | None], tuple[Chain, MdmError | None]] = {}

    def load(self, acl_ids: Iterable[UUID]) -> None:
        """Fetch the permissions under these ACLs that are not known yet, in one query."""
        missing = {acl_id for acl_id in acl_ids if acl_id not in self._held}
        if missing:
            rights = self._reading.rights(self._caller, missing)
            self._held.update((acl_id, narrowed(granted, self._caller, acl_id, _WAY)) for acl_id, granted in rights.items())

    def load_locations(self, found: Iterable[Location]) -> None:
        """Fetch the permissions under all ACLs that decide about these targets."""
        chains = {id(item.chain): item.chain for item in found if item.chain is not None}
        wanted = {acl_id for chain in chains.values() for acl_id in chain.acl_ids}
        wanted.update(item.node.acl_id for item in found if item.node is not None)
        self.load(wanted)

    def permissions_under(self, acl_id: UUID) -> Permission:
        """Return the caller's permissions under an ACL, fetching them if necessary."""
        held = self._held.get(acl_id)
        if held is None:
            self.load((acl_id,))
            held = self._held[acl_id]
        return held

    def why_blocked(self, chain: Chain) -> MdmError | None:
        """Return why the caller cannot get through the directories of `chain`, None if it can.

        It needs `x` on each. The answer does not depend on what is below the first directory without it.
        """
        known = self._blocks.get(id(chain))
        if known is None:
            known = self._blocks[id(chain)] = (chain, self._find_block(chain))
        return known[1]

    def why_hidden(self, location: Location) -> MdmError | None:
        """Return why the caller may not see a target's entry, None if it may.

        It needs `x` on every directory above, and `l` on the parent or `g` on the entry. The refusal is NotFound, or Forbidden where
        the path goes through a directory that the caller may know of but not traverse.
        """
        return self._refusal(location, None)

    def why_refused(self, location: Location, needed: Permission) -> MdmError | None:
        """Return why the caller lacks some of the permissions `needed` on a target's entry, None if it has them.

        NotFound if the entry does not exist or the caller may not know of it; Forbidden if it may know of it, or of the directory
        that it may not traverse.
        """
        return self._refusal(location, needed)

    def why_not_removable(self, location: Location) -> MdmError | None:
        """Return why the caller may not remove an entry from its directory, None if it may: `d` on it, `w` on the directory."""
        if location.node is not None and location.node.id == ROOT_ID:
            return Invalid("ROOT_FIXED", "The root directory cannot be renamed or removed.")
        refusal = self.why_refused(location, Permission.DELETE)
        if refusal is not None or location.chain is None or location.node is None:
            return refusal or not_found()
        if self.why_not_writable(location.chain) is None:
            return None
        if not self.sees_in(location.chain, location.node):
            return not_found()
        return Forbidden("WRITE_FORBIDDEN", "Permission denied: this needs `w` on the directory of the entry.")

    def why_not_writable(self, chain: Chain) -> MdmError | None:
        """Return why the caller may not add or remove names in the last directory of `chain`, None if it may: `x` and `w`."""
        blocked = self.why_blocked(chain)
        if blocked is not None or self.permissions_under(chain.acl_ids[-1]) & Permission.WRITE:
            return blocked
        above = self.permissions_under(chain.acl_ids[-2]) if len(chain.acl_ids) > 1 else Permission.LIST
        if _visible(above, self.permissions_under(chain.acl_ids[-1])):
            return Forbidden("WRITE_FORBIDDEN", "Permission denied: this needs `w` on the directory.")
        return not_found()

    def sees_in(self, chain: Chain, node: Node) -> bool:
        """Return whether the caller, who can traverse `chain`, may know of `node` in its last directory."""
        above = self.permissions_under(chain.acl_ids[-1]) if chain.acl_ids else Permission.LIST  # that there is a root is no secret
        return _visible(above, self.permissions_under(node.acl_id))

    def why_acl_refused(self, *acl_ids: UUID | None) -> MdmError | None:
        """Return why the caller may not put an ACL on an entry, None if it may.

        It needs `p` on the ACL: otherwise what its owner grants later could be made to reach entries of others.
        """
        if all(acl_id is None or self.permissions_under(acl_id) & Permission.CHANGE_ACL for acl_id in acl_ids):
            return None
        return NotFound("ACL_NOT_FOUND", "No such ACL, or you do not control it: create it first, or ask for `p` on it.")

    def _find_block(self, chain: Chain) -> MdmError | None:
        above = Permission.LIST
        for acl_id in chain.acl_ids:
            held = self.permissions_under(acl_id)
            if not held & Permission.TRAVERSE:
                if _visible(above, held):
                    return Forbidden("TRAVERSE_FORBIDDEN", "Permission denied: this needs `x` on every directory of the path.")
                return not_found()
            above = held
        return None if chain.complete else not_found()

    def _refusal(self, location: Location, needed: Permission | None) -> MdmError | None:
        node, chain = location.node, location.chain
        if chain is None:
            return location.problem or not_found()
        if self._caller.delegation is not None and (node is None or not self._caller.covers(location.lfn)):
            return not_found()
        blocked = self.why_blocked(chain)
        if blocked is not None:
            # A GUID or SURL says nothing of the path, so a blocked directory on it must not reveal that the file exists.
            return blocked if location.target.lfn is not None else not_found()
        if node is None:
            return not_found()
        key = (id(chain), node.acl_id, needed)
        known = self._refusals.get(key)
        if known is None:
            known = self._refusals[key] = (chain, self._decide(chain, node, needed))
        return known[1]

    def _decide(self, chain: Chain, node: Node, needed: Permission | None) -> MdmError | None:
        if needed is not None and self.permissions_under(node.acl_id) & needed == needed:
            return None
        if not self.sees_in(chain, node):
            return not_found()
        if needed is None:
            return None
        return Forbidden("PERMISSION_MISSING", f"Permission denied: this needs {_letters(needed)} on the entry.")


def _visible(parent: Permission, own: Permission) -> bool:
    return bool(parent & Permission.LIST or own & Permission.GET)


def _letters(needed: Permission) -> str:
    return " ".join(f"`{letter}`" for letter in format_permissions(needed))
