"""Use cases of a keystore: create in two phases, release audited shares, destroy."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from mdm_crypto import shamir
from mdm_crypto.shamir import Share, ShareError
from mdm_service.identity.caller import Caller
from mdm_service.policy import DICOM_SRM, OPERATOR
from mdm_wire.batch import MAX_KEYS, check_batch
from mdm_wire.errors import Conflict, FailedPrecondition, Failure, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import Permission

from mdm_keystore.rules.audit import audit_entries
from mdm_keystore.rules.model import AclAssignment, KeyRecord, KeyRef, KeyState, LiveKey, NewKey, Released
from mdm_keystore.rules.port import Keys
from mdm_keystore.rules.seal import Sealer, open_share, seal_share

EXPIRY = "service:expiry"
_log = logging.getLogger(__name__)


class KeystoreService:
    """One keystore. Every method processes a batch and returns one result per item, in the order asked."""

    def __init__(self, keys: Keys, sealer: Sealer, *, name: str, index: int, pending_ttl: timedelta) -> None:
        self._keys = keys
        self._sealer = sealer
        self.name = name
        self.index = index
        self._pending_ttl = pending_ttl

    def create_keys(self, caller: Caller, keys: Sequence[NewKey]) -> list[Failure]:
        """Store verified shares as pending; needs `w` on the ACL.

        The same share again succeeds. Only its creator can replace a pending key, and nobody a confirmed one.
        """
        check_batch(keys, MAX_KEYS)
        failures: list[Failure] = [self._refusal_of(key.share) for key in keys]
        now = datetime.now(UTC)
        with self._keys.change() as change:
            held = change.held(caller, [key.share.guid for key in keys])
            rights = change.acl_rights(caller, list({key.acl_id for key in keys}))
            records: dict[UUID, KeyRecord] = {}
            seen: set[UUID] = set()
            for position, key in enumerate(keys):
                guid = key.share.guid
                if failures[position] is None:
                    failures[position] = _refusal_of_creation(caller, key, held.get(guid), rights, guid in seen)
                seen.add(guid)
                if failures[position] is None and not _is_confirmed(held.get(guid)):
                    records[guid] = self._pending(caller, key, now)
            change.put(list(records.values()))
            change.audit(audit_entries(caller, "create", [key.share.guid for key in keys], failures))
        return failures

    def confirm_keys(self, caller: Caller, refs: Sequence[KeyRef]) -> list[Failure]:
        """Make the caller's own pending keys readable; confirming again succeeds."""
        check_batch(refs, MAX_KEYS)
        with self._keys.change() as change:
            held = change.held(caller, [ref.guid for ref in refs])
            failures = [_refusal_of_confirmation(caller, ref, held.get(ref.guid)) for ref in refs]
            wanted = [ref.guid for ref, failure in zip(refs, failures, strict=True) if failure is None]
            change.confirm([guid for guid in wanted if not _is_confirmed(held.get(guid))])
            change.audit(audit_entries(caller, "confirm", [ref.guid for ref in refs], failures))
        return failures

    def release_shares(self, caller: Caller, guids: Sequence[UUID]) -> list[Released | MdmError]:
        """Return this server's share of each confirmed key that `caller` may read.

        An unknown key and a forbidden one give the same `NotFound` item, so ids cannot be probed.
        Each item is audited before it is returned; if the audit cannot be written, nothing is.

        Raises:
            AuditUnavailable: the log refused the entries; safe to retry.
        """
        check_batch(guids, MAX_KEYS)
        with self._keys.release() as release:
            held = release.held(caller, guids)
            results = [self._release(held.get(guid)) for guid in guids]
            failures = [result if isinstance(result, MdmError) else None for result in results]
            release.audit(audit_entries(caller, "release", guids, failures))
        return results

    def delete_keys(self, caller: Caller, keys: Sequence[UUID | KeyRef]) -> list[Failure]:
        """Destroy shares: needs `d`, or being the creator of a pending key, or an operator.

        A key given by reference is deleted only if it is still that key. Shares that a round has prepared are destroyed too, so that a key
        deleted while it gets new shares does not come back.
        """
        check_batch(keys, MAX_KEYS)
        guids = [key.guid if isinstance(key, KeyRef) else key for key in keys]
        with self._keys.change() as change:
            held = change.held(caller, guids)
            failures = [_refusal_of_deletion(caller, key, held.get(guid)) for key, guid in zip(keys, guids, strict=True)]
            change.remove([guid for guid, failure in zip(guids, failures, strict=True) if failure is None])
            prepared = set(change.remove_prepared(None if caller.has_role(OPERATOR) else caller, [g for g in guids if g not in held]))
            failures = [None if guid in prepared else failure for guid, failure in zip(guids, failures, strict=True)]
            change.audit(audit_entries(caller, "delete", guids, failures))
        return failures

    def assign_acls(self, caller: Caller, assignments: Sequence[AclAssignment]) -> list[Failure]:
        """Point keys at other ACLs: needs `p` under the present one; the new one must exist here."""
        check_batch(assignments, MAX_KEYS)
        with self._keys.change() as change:
            held = change.held(caller, [assignment.guid for assignment in assignments])
            existing = change.acl_rights(caller, list({assignment.acl_id for assignment in assignments}))
            failures: list[Failure] = []
            for assignment in assignments:
                found = held.get(assignment.guid)
                failure = _not_found() if found is None else _lacking(found, Permission.CHANGE_ACL, "change its ACL")
                if failure is None and assignment.acl_id not in existing:
                    failure = _acl_not_found()
                failures.append(failure)
            change.assign([a for a, failure in zip(assignments, failures, strict=True) if failure is None])
            change.audit(audit_entries(caller, "assign-acl", [a.guid for a in assignments], failures))
        return failures

    def key_attributes(self, caller: Caller, guids: Sequence[UUID]) -> list[KeyRecord | MdmError]:
        """Return what is not secret: needs `g` or `r`, being an operator, the creator of a pending key, or the dicom-srm that made it."""
        check_batch(guids, MAX_KEYS)
        held = self._keys.held(caller, guids)
        return [_attributes(caller, held.get(guid)) for guid in guids]

    def list_keys(self, caller: Caller, after: UUID | None, limit: int) -> Sequence[KeyRecord]:
        """Return the next keys after `after` that the caller may list (`l`); an operator may list all, a dicom-srm those it made."""
        return self._keys.page(None if caller.has_role(OPERATOR) else caller, after, limit)

    def purge_expired(self) -> int:
        """Destroy pending keys whose time is over; return how many."""
        with self._keys.change() as change:
            guids = change.remove_expired()
            if guids:
                change.audit(audit_entries(Caller(EXPIRY), "expire", guids, [None] * len(guids)))
        if guids:
            _log.info("expired pending keys removed", extra={"keys": len(guids)})
        return len(guids)

    def _refusal_of(self, share: Share) -> Failure:
        if share.x != self.index:
            return Invalid("SHARE_INDEX_WRONG", f"Share {share.x} was sent to the keystore that holds share {self.index}.")
        try:
            shamir.check(share)
        except ShareError as error:
            return Invalid(error.reason.upper().replace("-", "_"), f"The share is refused: {error}.")
        return None

    def _pending(self, caller: Caller, key: NewKey, now: datetime) -> KeyRecord:
        return seal_share(
            self._sealer,
            key.share,
            state=KeyState.PENDING,
            creator=caller.dn,
            acl_id=key.acl_id,
            create_time=now,
            expire_time=now + self._pending_ttl,
        )

    def _release(self, found: LiveKey | None) -> Released | MdmError:
        if found is None or not _is_confirmed(found) or not found.granted & Permission.READ:
            return _not_found()
        share = self._open(found.record)
        previous = None if found.previous is None else self._open(found.previous)
        if share is None and previous is None:
            return Unavailable("SHARE_UNREADABLE", "This keystore cannot open its share: its operator must repair it.")
        return Released(share, previous) if share is not None else Released(cast(Share, previous))

    def _open(self, record: KeyRecord) -> Share | None:
        share = open_share(self._sealer, record)
        if share is None:
            _log.error("share does not open", extra={"guid": str(record.guid), "version": record.version})
        return share


def _refusal_of_creation(caller: Caller, key: NewKey, found: LiveKey | None, rights: Mapping[UUID, Permission], repeated: bool) -> Failure:
    if repeated:
        return Invalid("GUID_TWICE", "The GUID occurs twice in this batch.")
    if not rights.get(key.acl_id, Permission.NONE) & Permission.WRITE:
        return _acl_not_found()
    if found is None or (found.record.creator == caller.dn and _is_same(found.record, key)):
        return None
    if _is_confirmed(found):
        return Conflict("KEY_EXISTS", "A key with this GUID exists and stays as it is.")
    if found.record.creator != caller.dn:
        return Conflict("KEY_PENDING", "Somebody else is creating a key with this GUID.")
    return None


def _refusal_of_confirmation(caller: Caller, ref: KeyRef, found: LiveKey | None) -> Failure:
    if found is None or found.record.creator != caller.dn:
        return _not_found()
    if (found.record.epoch, found.record.public_key) != (ref.epoch, ref.public_key):
        return FailedPrecondition("KEY_REPLACED", "Another creation has replaced this share: create the key again.")
    return None


def _refusal_of_deletion(caller: Caller, key: UUID | KeyRef, found: LiveKey | None) -> Failure:
    if found is None:
        return _not_found()
    own_pending = found.record.state is KeyState.PENDING and found.record.creator == caller.dn
    failure = None if own_pending or caller.has_role(OPERATOR) else _lacking(found, Permission.DELETE, "delete this key")
    if failure is None and isinstance(key, KeyRef) and (found.record.epoch, found.record.public_key) != (key.epoch, key.public_key):
        return FailedPrecondition("KEY_REPLACED", "Another creation has replaced this key: it is not deleted.")
    return failure


def _lacking(found: LiveKey, needed: Permission, action: str) -> Failure:
    """Return why the caller may not do this; Forbidden only if it may know of the key, else NotFound."""
    if found.granted & needed:
        return None
    if found.granted & (Permission.READ | Permission.GET | Permission.LIST):
        return Forbidden("KEY_FORBIDDEN", f"You may not {action}: its ACL does not grant it.")
    return _not_found()


def _attributes(caller: Caller, found: LiveKey | None) -> KeyRecord | MdmError:
    if found is None:
        return _not_found()
    own = found.record.creator == caller.dn and (found.record.state is KeyState.PENDING or caller.has_role(DICOM_SRM))
    if found.granted & (Permission.GET | Permission.READ) or own or caller.has_role(OPERATOR):
        return found.record
    return _not_found()


def _is_confirmed(found: LiveKey | None) -> bool:
    return found is not None and found.record.state is KeyState.CONFIRMED


def _is_same(record: KeyRecord, key: NewKey) -> bool:
    """Return whether a verified share is the stored one: its commitments determine its value."""
    share = key.share
    stored = (record.epoch, record.version, record.x, record.threshold, record.total, record.commitments, record.acl_id)
    return stored == (share.epoch, share.version, share.x, share.threshold, share.total, share.commitments, key.acl_id)


def _not_found() -> NotFound:
    return NotFound("KEY_NOT_FOUND", "No such key, or you may not use it.")


def _acl_not_found() -> NotFound:
    return NotFound("ACL_NOT_FOUND", "No such ACL on this keystore, or you may not write under it.")
