"""The access rules: who may traverse, see and change what, and which of the two refusals they get."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Forbidden, Invalid, MdmError, NotFound
from mdm_wire.path import ROOT, Lfn, join
from mdm_wire.permission import Permission, format_permissions

from mdm_catalog.rules.model import ROOT_ID, Chain, EntryKind, Node, Target
from mdm_catalog.rules.port import Reading


@dataclass(frozen=True, slots=True)
class Location:
    """A target with the directories above it and, where it exists, its entry; `problem` is why its path leads nowhere."""

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
    """Return the one refusal for what is absent and for what the caller may not know of."""
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


def outcome_of(location: Location, refusal: MdmError | None) -> Node | MdmError:
    """Return the entry of a target, or why it is not given."""
    return refusal or location.node or not_found()


def file_outcome_of(location: Location, refusal: MdmError | None) -> Node | MdmError:
    """Return the file of a target, or why it is not given, for instance because it is not a file."""
    if refusal is None and location.node is not None and location.node.kind != EntryKind.FILE:
        return Invalid("NOT_A_FILE", "This is not a file.")
    return outcome_of(location, refusal)


class Rights:
    """What one caller holds, fetched once per ACL, and the refusals that follow from it.

    A refusal is returned, not raised: a batch may hold ten thousand.
    """

    def __init__(self, reading: Reading, caller: Caller) -> None:
        self._reading = reading
        self._caller = caller
        self._held: dict[UUID, Permission] = {}
        # By identity of the chain, which the value keeps alive: a chain read again after locking is another one.
        self._obstacles: dict[int, tuple[Chain, MdmError | None]] = {}
        self._refusals: dict[tuple[int, UUID, Permission | None], tuple[Chain, MdmError | None]] = {}

    def load(self, acl_ids: Iterable[UUID]) -> None:
        """Fetch what is not known yet, in one query."""
        missing = {acl_id for acl_id in acl_ids if acl_id not in self._held}
        if missing:
            self._held.update(self._reading.rights(self._caller, missing))

    def load_locations(self, found: Iterable[Location]) -> None:
        """Fetch what decides about these targets."""
        chains = {id(item.chain): item.chain for item in found if item.chain is not None}
        wanted = {acl_id for chain in chains.values() for acl_id in chain.acl_ids}
        wanted.update(item.node.acl_id for item in found if item.node is not None)
        self.load(wanted)

    def under(self, acl_id: UUID) -> Permission:
        """Return what the caller holds under an ACL, fetching it when needed."""
        held = self._held.get(acl_id)
        if held is None:
            self.load((acl_id,))
            held = self._held[acl_id]
        return held

    def obstacle(self, chain: Chain) -> MdmError | None:
        """Return why the caller cannot get through the directories of `chain`, None if nothing is in the way.

        `x` is needed on each. The answer is the same whatever lies beyond the first directory without it.
        """
        known = self._obstacles.get(id(chain))
        if known is None:
            known = self._obstacles[id(chain)] = (chain, self._find_obstacle(chain))
        return known[1]

    def unseen(self, location: Location) -> MdmError | None:
        """Return why the caller may not see a target's entry, None if it may.

        It takes `x` on every directory above, and `l` on the parent or `g` on the entry. The refusal is NotFound, unless a path
        leads through a directory that the caller may know of but not traverse.
        """
        return self._refusal(location, None)

    def refusal(self, location: Location, needed: Permission) -> MdmError | None:
        """Return why the caller may not do with a target's entry what takes all of `needed`, None if it may.

        NotFound, when the entry is absent or the caller may not know of it; Forbidden, when it may know of it, or of a directory
        that bars the way.
        """
        return self._refusal(location, needed)

    def removing_refusal(self, location: Location) -> MdmError | None:
        """Return why the caller may not take an entry out of its directory, None if it may: `d` on it, `w` on the directory."""
        if location.node is not None and location.node.id == ROOT_ID:
            return Invalid("ROOT_FIXED", "The root directory stays as and where it is.")
        refusal = self.refusal(location, Permission.DELETE)
        if refusal is not None or location.chain is None or location.node is None:
            return refusal or not_found()
        if self.making_refusal(location.chain) is None:
            return None
        if not self.sees_in(location.chain, location.node):
            return not_found()
        return Forbidden("WRITE_FORBIDDEN", "You may not take this out of its directory: it needs `w` on the directory.")

    def making_refusal(self, chain: Chain) -> MdmError | None:
        """Return why the caller may not make or remove names in the directory `chain` ends at, None if it may: `x` and `w`."""
        obstacle = self.obstacle(chain)
        if obstacle is not None or self.under(chain.acl_ids[-1]) & Permission.WRITE:
            return obstacle
        above = self.under(chain.acl_ids[-2]) if len(chain.acl_ids) > 1 else Permission.LIST
        if _visible(above, self.under(chain.acl_ids[-1])):
            return Forbidden("WRITE_FORBIDDEN", "You may not write in this directory: it needs `w` on it.")
        return not_found()

    def sees_in(self, chain: Chain, node: Node) -> bool:
        """Return whether the caller, who can traverse `chain`, may know of `node` in its last directory."""
        above = self.under(chain.acl_ids[-1]) if chain.acl_ids else Permission.LIST  # that there is a root is no secret
        return _visible(above, self.under(node.acl_id))

    def acl_refusal(self, *acl_ids: UUID | None) -> MdmError | None:
        """Return why the caller may not put an ACL on an entry, None if it may.

        It takes control (`p`) of the ACL: otherwise what its owner grants later could be made to reach entries of others.
        """
        if all(acl_id is None or self.under(acl_id) & Permission.CHANGE_ACL for acl_id in acl_ids):
            return None
        return NotFound("ACL_NOT_FOUND", "No such ACL, or you do not control it: create it first, or ask for `p` on it.")

    def _find_obstacle(self, chain: Chain) -> MdmError | None:
        above = Permission.LIST
        for acl_id in chain.acl_ids:
            held = self.under(acl_id)
            if not held & Permission.TRAVERSE:
                if _visible(above, held):
                    return Forbidden("TRAVERSE_FORBIDDEN", "A directory on the path may not be traversed: you need `x` on it.")
                return not_found()
            above = held
        return None if chain.complete else not_found()

    def _refusal(self, location: Location, needed: Permission | None) -> MdmError | None:
        node, chain = location.node, location.chain
        if chain is None:
            return location.problem or not_found()
        obstacle = self.obstacle(chain)
        if obstacle is not None:
            # A GUID or SURL says nothing of the path, so an obstacle on it must not reveal that the file exists.
            return obstacle if location.target.lfn is not None else not_found()
        if node is None:
            return not_found()
        key = (id(chain), node.acl_id, needed)
        known = self._refusals.get(key)
        if known is None:
            known = self._refusals[key] = (chain, self._decide(chain, node, needed))
        return known[1]

    def _decide(self, chain: Chain, node: Node, needed: Permission | None) -> MdmError | None:
        if needed is not None and self.under(node.acl_id) & needed == needed:
            return None
        if not self.sees_in(chain, node):
            return not_found()
        if needed is None:
            return None
        return Forbidden("PERMISSION_MISSING", f"You may not do this: it needs {_letters(needed)} on the entry.")


def _visible(parent: Permission, own: Permission) -> bool:
    return bool(parent & Permission.LIST or own & Permission.GET)


def _letters(needed: Permission) -> str:
    return " ".join(f"`{letter}`" for letter in format_permissions(needed))
