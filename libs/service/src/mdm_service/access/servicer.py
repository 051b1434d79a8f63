"""AclService: the same access control operations in catalog, keystore and metadata."""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import grpc
import psycopg
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_wire import status
from mdm_wire.batch import MAX_ACLS, check_batch
from mdm_wire.dn import canonical
from mdm_wire.errors import Conflict, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission, canonical_principal, valid_permissions
from mdm_wire.url import canonical_uuid
from psycopg_pool import ConnectionPool

from mdm_service.access import store as acl_store
from mdm_service.access.acl import MAX_ENTRIES, Acl, AclChange, AclEdit, AclEntry, AclUse, Action
from mdm_service.access.store import AclScope, AclUses
from mdm_service.identity.caller import Authenticator, Caller, current_caller
from mdm_service.policy import DICOM_SRM, OPERATOR

FULL_NAME = "mdm.acl.v1.AclService"
#: Entries or changes of one call; the name in each has to be parsed.
MAX_ENTRIES_IN_ALL = 10_000


class AclAudit(Protocol):
    """Records who created, changed or was refused to change an ACL, in the same transaction as the change."""

    def begin(self, connection: psycopg.Connection) -> None:
        """Acquire the locks that a record needs, before any other lock."""

    def record(self, connection: psycopg.Connection, caller: Caller, action: str, acl_id: UUID, outcome: str) -> None:
        """Record an action; `outcome` is OK or the reason of a refusal. An error undoes the change."""


def add_acl_service(
    server: grpc.Server, pool: ConnectionPool, uses: AclUses, authenticator: Authenticator, audit: AclAudit | None = None
) -> None:
    """Register AclService on `server`, working on the ACL tables of `pool`; `uses` counts what they guard there."""
    acl_pb2_grpc.add_AclServiceServicer_to_server(AclServicer(pool, uses, authenticator, audit), server)


class AclServicer(acl_pb2_grpc.AclServiceServicer):
    """Creates, shows and changes ACLs of one service."""

    def __init__(self, pool: ConnectionPool, uses: AclUses, authenticator: Authenticator, audit: AclAudit | None = None) -> None:
        self._pool = pool
        self._uses = uses
        self._authenticator = authenticator
        self._audit = audit

    def CreateAcls(self, request: acl_pb2.CreateAclsRequest, context: grpc.ServicerContext) -> acl_pb2.CreateAclsResponse:
        """Store each ACL, or return why not."""
        caller = current_caller()
        check_batch(request.acls, MAX_ACLS)
        _check_entries(sum(len(message.entries) for message in request.acls))
        return acl_pb2.CreateAclsResponse(statuses=[self._create(caller, message) for message in request.acls])

    def GetAcls(self, request: acl_pb2.GetAclsRequest, context: grpc.ServicerContext) -> acl_pb2.GetAclsResponse:
        """Show each ACL that the caller may see."""
        caller = current_caller()
        check_batch(request.ids, MAX_ACLS)
        with self._pool.connection() as connection:
            found = acl_store.load(connection, [found for found in map(canonical_uuid, request.ids) if found is not None])

        def show(text: str) -> Acl:
            acl = found.get(_uuid(text))
            if acl is None or not (caller.has_role(OPERATOR) or acl.permissions_of(caller) & (Permission.GET | Permission.CHANGE_ACL)):
                raise NotFound("ACL_NOT_FOUND", "No such ACL, or you may not see it.")
            return acl

        return acl_pb2.GetAclsResponse(results=[_result(show, text) for text in request.ids])

    def ModifyAcls(self, request: acl_pb2.ModifyAclsRequest, context: grpc.ServicerContext) -> acl_pb2.ModifyAclsResponse:
        """Apply the changes to each ACL in a transaction of its own."""
        caller = current_caller()
        check_batch(request.ids, MAX_ACLS)
        _check_entries(max(1, len(request.ids)) * len(request.changes))
        changes = [change_from_proto(change) for change in request.changes]
        edit = AclEdit(changes, self._authenticator.check_owner, request.shared)
        scope = AclScope(tuple(request.scope.keys), request.scope.path)
        return acl_pb2.ModifyAclsResponse(
            results=[_result(lambda text: self._modify(caller, _uuid(text), edit, scope), text) for text in request.ids]
        )

    def _create(self, caller: Caller, message: acl_pb2.Acl) -> common_pb2.ItemStatus:
        try:
            acl = acl_from_proto(caller, message)
            with self._pool.connection() as connection:
                self._begin(connection)
                if acl_store.insert(connection, acl):
                    self._record(connection, caller, "acl-create", acl.id)
                else:
                    existing = acl_store.load(connection, [acl.id]).get(acl.id)
                    if existing is None or existing.owner != acl.owner:
                        raise Conflict("ACL_TAKEN", "An ACL with this id exists and has another owner.")
                    if existing.entries != acl.entries:
                        raise Conflict("ACL_EXISTS", "An ACL with this id exists with other entries.")
        except MdmError as error:
            self._refused(caller, "acl-create", message.id, error)
            return status.failed(error)
        return status.ok()

    def _modify(self, caller: Caller, acl_id: UUID, edit: AclEdit, scope: AclScope) -> Acl:
        try:
            return self._modified(caller, acl_id, edit, scope)
        except MdmError as error:
            self._refused(caller, "acl-modify", str(acl_id), error)
            raise

    def _begin(self, connection: psycopg.Connection) -> None:
        if self._audit is not None:
            self._audit.begin(connection)

    def _record(self, connection: psycopg.Connection, caller: Caller, action: str, acl_id: UUID) -> None:
        if self._audit is not None:
            self._audit.record(connection, caller, action, acl_id, "OK")

    def _refused(self, caller: Caller, action: str, acl_id: str, error: MdmError) -> None:
        found = canonical_uuid(acl_id)
        if self._audit is not None and found is not None:
            with self._pool.connection() as connection:
                self._audit.record(connection, caller, action, found, error.reason)

    def _modified(self, caller: Caller, acl_id: UUID, edit: AclEdit, scope: AclScope) -> Acl:
        with self._pool.connection() as connection:
            self._begin(connection)
            # Locked, so that nothing can be put under the list between counting and changing.
            acl = acl_store.load(connection, [acl_id], lock=True).get(acl_id)
            use = self._uses.count(connection, acl_id, scope) if acl else AclUse()
            after = edit.apply(acl, caller, use)
            if after is acl:
                return after
            self._record(connection, caller, "acl-modify", acl_id)
            return acl_store.replace(connection, acl_id, after.owner, after.entries)


def acl_from_proto(caller: Caller, message: acl_pb2.Acl) -> Acl:
    """Return an ACL that `caller` creates, for itself unless a service names another owner.

    Raises:
        Forbidden: the caller may not name another owner. Invalid: too many entries, or two of one principal.
    """
    owner = canonical(message.owner) if message.owner else caller.dn
    if owner != caller.dn and not caller.has_role(DICOM_SRM):
        raise Forbidden("ACL_OWNER_FORBIDDEN", "Only a service may create an ACL for another owner.")
    if len(message.entries) > MAX_ENTRIES:
        raise Invalid("ACL_TOO_LONG", f"An ACL has at most {MAX_ENTRIES} entries: use a group.")
    entries = [_entry(entry) for entry in message.entries]
    if len({entry.principal for entry in entries}) != len(entries):
        raise Invalid("ACL_PRINCIPAL_TWICE", "A principal has at most one entry.")
    kept = (entry for entry in entries if entry.permissions)
    return Acl(_uuid(message.id), owner, tuple(sorted(kept, key=lambda entry: entry.principal)))


def _entry(message: acl_pb2.AclEntry) -> AclEntry:
    return AclEntry(canonical_principal(message.principal), valid_permissions(message.permissions))


def change_from_proto(message: acl_pb2.AclChange) -> AclChange:
    """Return a change.

    Raises:
        Invalid: the action is unknown, or principal or permissions are not valid.
    """
    try:
        action = Action(message.action)
    except ValueError:
        raise Invalid("ACL_ACTION_UNKNOWN", "A change must grant, revoke or set.", fields={"changes.action": "unknown"}) from None
    return AclChange(action, _entry(message.entry))


def acl_to_proto(acl: Acl) -> acl_pb2.Acl:
    """Return an ACL as a message."""
    entries = [acl_pb2.AclEntry(principal=entry.principal, permissions=int(entry.permissions)) for entry in acl.entries]
    return acl_pb2.Acl(id=str(acl.id), owner=acl.owner, entries=entries, rev=acl.rev)


def _result(produce: Callable[[str], Acl], text: str) -> acl_pb2.AclResult:
    try:
        acl = produce(text)
    except MdmError as error:
        return acl_pb2.AclResult(status=status.failed(error))
    return acl_pb2.AclResult(status=status.ok(), acl=acl_to_proto(acl))


def _uuid(text: str) -> UUID:
    found = canonical_uuid(text)
    if found is None:
        raise Invalid("ACL_ID_MALFORMED", "An ACL id is a UUID in canonical lower-case text.")
    return found


def _check_entries(number: int) -> None:
    if number > MAX_ENTRIES_IN_ALL:
        raise Invalid("BATCH_TOO_LARGE", f"At most {MAX_ENTRIES_IN_ALL:,} ACL entries or changes per call: split the call.")
