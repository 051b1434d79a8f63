"""The access rules: who may traverse, see and change what, and which of the two refusals they get."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mdm_service.acl import Permission, format_permissions
from mdm_service.errors import Forbidden, MdmError, NotFound
from mdm_service.identity import Caller

from mdm_catalog.model import ROOT_ID, Chain, Node, Target
from mdm_catalog.path import ROOT, Lfn, join
from mdm_catalog.port import Reading


@dataclass(frozen=True, slots=True)
class Located:
    """A target with the directories above it and, where it exists, its entry."""

    target: Target
    chain: Chain | None
    node: Node | None

    @property
    def lfn(self) -> Lfn:
        """The path of an entry that exists."""
        assert self.chain is not None and self.node is not None
        return ROOT if self.node.id == ROOT_ID else join(self.chain.lfn, self.node.name)


def not_found() -> NotFound:
    """Return the one refusal for what is absent and for what the caller may not know of."""
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


class Rights:
    """What one caller holds, fetched once per ACL."""

    def __init__(self, reading: Reading, caller: Caller) -> None:
        self._reading = reading
        self._caller = caller
        self._held: dict[UUID, Permission] = {}
        self._obstacles: dict[tuple[Lfn, bool, tuple[UUID, ...]], MdmError | None] = {}

    def load(self, acl_ids: Iterable[UUID]) -> None:
        """Fetch what is not known yet, in one query."""
        missing = {acl_id for acl_id in acl_ids if acl_id not in self._held}
        if missing:
            self._held.update(self._reading.rights(self._caller, missing))

    def load_located(self, found: Iterable[Located]) -> None:
        """Fetch what decides about these targets."""
        wanted: set[UUID] = set()
        seen: set[Lfn] = set()
        for item in found:
            if item.chain is not None and item.chain.acl_ids and item.chain.lfn not in seen:
                seen.add(item.chain.lfn)
                wanted.update(item.chain.acl_ids)
            if item.node is not None:
                wanted.add(item.node.acl_id)
        self.load(wanted)

    def under(self, acl_id: UUID) -> Permission:
        """Return what the caller holds under an ACL, fetching it when needed."""
        if acl_id not in self._held:
            self.load((acl_id,))
        return self._held[acl_id]

    def obstacle(self, chain: Chain) -> MdmError | None:
        """Return why the caller cannot get through the directories of `chain`, None if nothing is in the way.

        `x` is needed on each. The answer is the same whatever lies beyond the first directory without it.
        """
        key = (chain.lfn, chain.complete, chain.acl_ids[-1:])
        if key not in self._obstacles:
            self._obstacles[key] = self._find_obstacle(chain)
        return self._obstacles[key]

    def _find_obstacle(self, chain: Chain) -> MdmError | None:
        above = Permission.LIST  # that there is a root is no secret
        for acl_id in chain.acl_ids:
            held = self.under(acl_id)
            if not held & Permission.TRAVERSE:
                if _visible(above, held):
                    return Forbidden("TRAVERSE_FORBIDDEN", "A directory on the path may not be traversed: you need `x` on it.")
                return not_found()
            above = held
        return None if chain.complete else not_found()

    def see(self, located: Located) -> Node:
        """Return the entry of a target that the caller may see: `x` on every directory above, and `l` on the parent or `g` on it.

        Raises:
            NotFound: it is absent, or the caller may not know of it.
            Forbidden: a directory that the caller may know of bars the way.
        """
        return self.demand(located, Permission.NONE, or_visible=True)

    def demand(self, located: Located, needed: Permission, *, or_visible: bool = False) -> Node:
        """Return the entry of a target on which the caller holds all of `needed`; with `or_visible`, seeing it is enough.

        Raises:
            NotFound: it is absent, or the caller may not know of it.
            Forbidden: the caller may know of it but lacks a permission, or of a directory that bars the way.
        """
        node, chain = located.node, located.chain
        obstacle = not_found() if chain is None else self.obstacle(chain)
        if obstacle is not None:
            # A GUID or SURL tells nothing of the path, so an obstacle on it must not tell that the file exists.
            raise obstacle if located.target.lfn is not None else not_found()
        if node is None or chain is None:
            raise not_found()
        held = self.under(node.acl_id)
        if not or_visible and held & needed == needed:
            return node
        if not _visible(self._over(chain), held):
            raise not_found()
        if not or_visible:
            raise Forbidden("PERMISSION_MISSING", f"You may not do this: it needs {_letters(needed)} on the entry.")
        return node

    def may_make_in(self, chain: Chain) -> MdmError | None:
        """Return why the caller may not make or remove names in the directory `chain` ends at, None if it may: `x` and `w`."""
        obstacle = self.obstacle(chain)
        if obstacle is not None or self.under(chain.acl_ids[-1]) & Permission.WRITE:
            return obstacle
        above = self.under(chain.acl_ids[-2]) if len(chain.acl_ids) > 1 else Permission.LIST
        if _visible(above, self.under(chain.acl_ids[-1])):
            return Forbidden("WRITE_FORBIDDEN", "You may not write in this directory: it needs `w` on it.")
        return not_found()

    def sees_in(self, chain: Chain, node: Node) -> bool:
        """Tell whether the caller, who can traverse `chain`, may know of `node` in its last directory."""
        return _visible(self._over(chain), self.under(node.acl_id))

    def check_acl(self, acl_id: UUID | None) -> None:
        """Demand control (`p`) of an ACL that is to guard an entry, lest somebody else's later grants or refusals be captured by it.

        Raises:
            NotFound: it is absent, or the caller may not change it.
        """
        if acl_id is not None and not self.under(acl_id) & Permission.CHANGE_ACL:
            raise NotFound("ACL_NOT_FOUND", "No such ACL, or you do not control it: create it first, or ask for `p` on it.")

    def _over(self, chain: Chain) -> Permission:
        return self.under(chain.acl_ids[-1]) if chain.acl_ids else Permission.LIST


def _visible(parent: Permission, own: Permission) -> bool:
    return bool(parent & Permission.LIST or own & Permission.GET)


def _letters(needed: Permission) -> str:
    return " ".join(f"`{letter}`" for letter in format_permissions(needed))
