"""Access control lists at one service, and changes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm_wire.batch import MAX_ACLS, in_batches, item_answers, item_errors
from mdm_wire.errors import MdmError

from mdm_client.service import Service, raise_first

ALL = 255
# The permissions `p`, `d` and `g`, which a former owner keeps until the new one revokes them, and so proves to exist.
_KEPT = 1 | 2 | 64


@dataclass(frozen=True)
class AclView:
    """An ACL as stored by one service: its owner, and permission bits by principal."""

    id: str
    owner: str
    entries: dict[str, int]
    rev: int


@dataclass(frozen=True)
class AclAnswer:
    """The answer of one service about one ACL: the ACL or the error."""

    service: str
    acl_id: str
    acl: AclView | None = None
    error: MdmError | None = None


class AclClient:
    """Calls of `mdm.acl.v1` at one service."""

    def __init__(self, service: Service) -> None:
        self.place = service.place
        self._service = service
        self._stub = acl_pb2_grpc.AclServiceStub(service.channel)

    def get(self, ids: Sequence[str]) -> list[AclAnswer]:
        """Return each ACL, or the error, in the order asked."""
        return self._batched(ids, lambda batch: self._service.call(self._stub.GetAcls, acl_pb2.GetAclsRequest(ids=batch)).results)

    def modify(
        self, ids: Sequence[str], changes: Sequence[acl_pb2.AclChange], *, shared: bool = False, scope: acl_pb2.AclScope | None = None
    ) -> list[AclAnswer]:
        """Apply changes to each ACL and return it as changed, in the order asked; safe to repeat.

        One that guards more than `scope` (None: one object) is not changed (ACL_SHARED) unless `shared`.
        """

        def call(batch: list[str]) -> Any:
            request = acl_pb2.ModifyAclsRequest(ids=batch, changes=changes, shared=shared, scope=scope)
            return self._service.call(self._stub.ModifyAcls, request).results

        return self._batched(ids, call)

    def copy(self, acl_id: str, new_id: str, owner: str) -> dict[str, int]:
        """Make an ACL of `owner`, the caller, with the entries of another one, whose owner gets all permissions; return its entries."""
        [present] = self.get([acl_id])
        if present.acl is None:
            assert present.error is not None
            raise present.error
        entries = dict(present.acl.entries)
        if present.acl.owner != owner:
            entries[f"dn:{present.acl.owner}"] = ALL
        self.create(entries, new_id)
        return entries

    def create(self, entries: Mapping[str, int], acl_id: str = "") -> str:
        """Make an ACL of the caller with these permission bits by principal, under this id or a new one, and return its id.

        Raises:
            Conflict: another ACL has this id.
        """
        wanted = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in entries.items()]
        acl = acl_pb2.Acl(id=acl_id or str(uuid4()), entries=wanted)
        statuses = self._service.call(self._stub.CreateAcls, acl_pb2.CreateAclsRequest(acls=[acl])).statuses
        raise_first([error and error.at(self.place) for error in item_errors([acl], statuses)])
        return acl.id

    def _batched(self, ids: Sequence[str], call: Callable[[list[str]], Any]) -> list[AclAnswer]:
        """Call in batches; a batch that fails as a whole fails each of its ACLs."""
        answers: list[AclAnswer] = []
        for batch in in_batches(ids, MAX_ACLS):
            try:
                found = item_answers(batch, call(batch), lambda result: view_from_proto(result.acl))
            except MdmError as error:
                answers += [AclAnswer(self.place, acl_id, error=error) for acl_id in batch]
            else:
                answers += [answer_of(self.place, acl_id, answer) for acl_id, answer in zip(batch, found, strict=True)]
        return answers


def grant(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that adds permissions to those of a principal."""
    return _change(acl_pb2.AclChange.ACTION_GRANT, principal, permissions)


def revoke(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that revokes permissions of a principal."""
    return _change(acl_pb2.AclChange.ACTION_REVOKE, principal, permissions)


def replace(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that sets the permissions of a principal."""
    return _change(acl_pb2.AclChange.ACTION_SET, principal, permissions)


def give(owner: str) -> acl_pb2.AclChange:
    """Return the change that makes a principal, a `dn:…`, the owner."""
    return _change(acl_pb2.AclChange.ACTION_SET_OWNER, owner, 0)


def give_away(owner: str, caller: str) -> list[acl_pb2.AclChange]:
    """Return the changes that give an ACL of the caller to another owner.

    The caller keeps `p`, `d` and `g` until the new owner revokes them: else nobody could change an ACL given to a DN that does not exist.
    """
    return [grant(f"dn:{caller}", _KEPT), give(owner)]


def _change(action: int, principal: str, permissions: int) -> acl_pb2.AclChange:
    entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
    return acl_pb2.AclChange(action=action, entry=entry)  # type: ignore[arg-type]


def view_from_proto(acl: acl_pb2.Acl) -> AclView:
    """Return an ACL of a service's message."""
    return AclView(acl.id, acl.owner, {entry.principal: entry.permissions for entry in acl.entries}, acl.rev)


def answer_of(place: str, acl_id: str, answer: AclView | MdmError) -> AclAnswer:
    """Return the answer of the service at `place` about an ACL; an error's message begins with the place."""
    return AclAnswer(place, acl_id, error=answer.at(place)) if isinstance(answer, MdmError) else AclAnswer(place, acl_id, answer)
