"""The store that the use cases need."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from mdm_crypto.audit import AuditEntry
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Unavailable
from mdm_wire.permission import Permission

from mdm_keystore.rules.model import AclAssignment, KeyRecord, LiveKey


class AuditUnavailable(Unavailable):
    """The audit log refused an entry, so nothing was released or changed; safe to retry."""

    def __init__(self) -> None:
        super().__init__("AUDIT_UNAVAILABLE", "The audit log cannot be written, so nothing was done; try again later.")


class Change(Protocol):
    """One atomic change; changes run one after the other, so what it reads stays true until it ends."""

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        """Return the live keys among `guids`."""

    def acl_rights(self, caller: Caller, acl_ids: Sequence[UUID]) -> Mapping[UUID, Permission]:
        """Return the caller's permissions under those of the ACLs that exist."""

    def put(self, records: Sequence[KeyRecord]) -> None:
        """Store records, replacing any of the same GUIDs."""

    def confirm(self, guids: Sequence[UUID]) -> None:
        """Make pending keys confirmed."""

    def remove(self, guids: Sequence[UUID]) -> None:
        """Destroy keys."""

    def remove_prepared(self, caller: Caller | None, guids: Sequence[UUID]) -> Sequence[UUID]:
        """Destroy prepared shares of keys that are not here yet and that `caller` may delete (None: all); return their GUIDs."""

    def assign(self, assignments: Sequence[AclAssignment]) -> None:
        """Point keys at other ACLs."""

    def remove_expired(self) -> Sequence[UUID]:
        """Destroy pending keys whose time is over; return their GUIDs."""

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain, as part of the change.

        Raises:
            AuditUnavailable: the log refused; the change must not happen.
        """


class Release(Protocol):
    """A transaction that releases shares."""

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        """Return the live keys among `guids`."""

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain, as part of the transaction.

        Raises:
            AuditUnavailable: the log refused; nothing may be released.
        """


class Keys(Protocol):
    """The store of keys and of the audit chain."""

    def change(self) -> AbstractContextManager[Change]:
        """Open a change: committed when the block ends, undone when it raises."""

    def release(self) -> AbstractContextManager[Release]:
        """Open a transaction that looks up keys and audits; committed when the block ends."""

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        """Return the live keys among `guids`."""

    def page(self, caller: Caller | None, after: UUID | None, limit: int) -> Sequence[KeyRecord]:
        """Return at most `limit` live keys after `after` in order of GUID: those `caller` may list or made as a dicom-srm, None: all."""
