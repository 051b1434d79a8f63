"""What the helpers of a round have dealt to this target, looked at together."""

from collections.abc import Sequence
from uuid import UUID

from mdm_crypto.resharing import Sharing
from mdm_service.access.acl import Acl

from mdm_keystore.rules.resharing.model import Part, Parts


class Dealt:
    """What all helpers of a round have dealt to this target."""

    def __init__(self, by_helper: Sequence[Parts]) -> None:
        first = by_helper[0]
        self.threshold, self.total = first.threshold, first.total
        self.helpers = len(by_helper)
        #: Whether all helpers split for the same k and n.
        self.alike = all((parts.threshold, parts.total) == (first.threshold, first.total) for parts in by_helper)
        #: The ACLs that all helpers gave alike.
        self.acls = _agreed([parts.acls for parts in by_helper])
        self._parts = {parts.helper: {part.deal.guid: part for part in parts.parts} for parts in by_helper}

    @property
    def acl_ids(self) -> set[UUID]:
        """The ids of all ACLs that any part names."""
        return {part.acl_id for parts in self._parts.values() for part in parts.values()}

    def parts(self, guid: UUID) -> dict[int, Part]:
        """Return a key's parts by helper."""
        return {helper: parts[guid] for helper, parts in self._parts.items() if guid in parts}

    def first(self, guid: UUID) -> Part | None:
        """Return any part of a key; where all helpers agree it speaks for all."""
        return next(iter(self.parts(guid).values()), None)

    def base(self, guid: UUID) -> Sharing:
        """Return the sharing that a key is dealt from."""
        return next(iter(self.parts(guid).values())).deal.base


def _agreed(by_helper: Sequence[Sequence[Acl]]) -> dict[UUID, Acl]:
    first, *others = ({acl.id: (acl.owner, frozenset(acl.entries)) for acl in acls} for acls in by_helper)
    alike = {acl_id for acl_id, content in first.items() if all(other.get(acl_id) == content for other in others)}
    return {acl.id: acl for acl in by_helper[0] if acl.id in alike}
