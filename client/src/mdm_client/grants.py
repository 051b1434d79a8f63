"""Access control of a subtree in every service at once: catalog, each keystore, metadata."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.status import from_item

from mdm_client.calls import Patience, Service, in_batches
from mdm_client.catalog.client import CatalogClient, SubtreeAcl
from mdm_client.names import Name

MAX_BATCH = 1_000
GRANT = acl_pb2.AclChange.ACTION_GRANT
REVOKE = acl_pb2.AclChange.ACTION_REVOKE


@dataclass(frozen=True)
class AclView:
    """An ACL as one service holds it: its owner, and permission bits by principal."""

    id: str
    owner: str
    entries: dict[str, int]
    rev: int


@dataclass(frozen=True)
class AclOutcome:
    """What one service answered about one ACL: the ACL, or the error."""

    service: str
    acl_id: str
    acl: AclView | None = None
    error: MdmError | None = None


@dataclass(frozen=True)
class AclReport:
    """What became of an operation on a subtree.

    `shared` are ACLs left alone because they guard objects elsewhere too; `hidden` counts those the caller may not see.
    """

    outcomes: tuple[AclOutcome, ...]
    shared: tuple[str, ...] = ()
    hidden: int = 0

    @property
    def complete(self) -> bool:
        """Whether every part succeeded and none was out of sight."""
        return not self.hidden and all(outcome.error is None for outcome in self.outcomes)


class AclClient(Service):
    """Calls of `mdm.acl.v1` at one service."""

    def __init__(self, place: str, channel: grpc.Channel, patience: Patience) -> None:
        super().__init__(place, channel, patience)
        self._stub = acl_pb2_grpc.AclServiceStub(channel)

    def get(self, ids: Sequence[str]) -> list[AclOutcome]:
        """Return each ACL or why it is not given, in the order asked."""
        return self._batched(ids, lambda batch: self.call(self._stub.GetAcls, acl_pb2.GetAclsRequest(ids=batch)).results)

    def modify(self, ids: Sequence[str], changes: Sequence[acl_pb2.AclChange]) -> list[AclOutcome]:
        """Apply changes to each ACL and return it as changed, in the order asked; safe to repeat."""
        return self._batched(
            ids,
            lambda batch: self.call(self._stub.ModifyAcls, acl_pb2.ModifyAclsRequest(ids=batch, changes=changes)).results,
        )

    def change(self, ids: Sequence[str], action: int, principal: str, permissions: int) -> list[AclOutcome]:
        """Grant (`GRANT`) or revoke (`REVOKE`) permissions in each ACL, as `modify`."""
        return self.modify(ids, [_change(action, principal, permissions)])

    def create(self, entries: Mapping[str, int], acl_id: str = "") -> str:
        """Make an ACL of the caller's with these permission bits by principal, under this id or a new one, and return its id.

        Raises:
            MdmError: what the service answered; Conflict where there is another of this id.
        """
        wanted = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in entries.items()]
        acl = acl_pb2.Acl(id=acl_id or str(uuid4()), entries=wanted)
        (status,) = self.call(self._stub.CreateAcls, acl_pb2.CreateAclsRequest(acls=[acl])).statuses
        if (error := from_item(status)) is not None:
            raise error.at(self.place)
        return acl.id

    def _batched(self, ids: Sequence[str], call: Callable[[list[str]], Any]) -> list[AclOutcome]:
        """Ask in batches; a batch that fails as a whole fails each of its ACLs."""
        outcomes: list[AclOutcome] = []
        for batch in in_batches(list(ids), MAX_BATCH):
            try:
                results = call(batch)
            except MdmError as error:
                outcomes += [AclOutcome(self.place, acl_id, error=error) for acl_id in batch]
            else:
                outcomes += [self._outcome(acl_id, result) for acl_id, result in zip(batch, results, strict=True)]
        return outcomes

    def _outcome(self, acl_id: str, result: acl_pb2.AclResult) -> AclOutcome:
        error = from_item(result.status)
        if error:
            return AclOutcome(self.place, acl_id, error=error.at(self.place))
        return AclOutcome(self.place, acl_id, _view(result.acl))


class Grants:
    """Reads and changes who may do what with a subtree, everywhere."""

    def __init__(self, catalog: CatalogClient, services: Sequence[AclClient]) -> None:
        """Take the catalog, and the ACL service of the catalog and of every other service that guards the same objects."""
        self._catalog = catalog
        self._services = services

    def get(self, name: Name) -> AclReport:
        """Return the ACLs at and below `name` as every service holds them."""
        acls, hidden = self._catalog.subtree_acls(name)
        return AclReport(self._everywhere(acls, lambda service, ids: service.get(ids), self._services), hidden=hidden)

    def change(self, name: Name, changes: Sequence[acl_pb2.AclChange], include_shared: bool = False) -> AclReport:
        """Apply changes (see `grant`, `revoke`, `replace`, `give`) to every ACL at and below `name`: first in the catalog, in one
        transaction, then in every other service.

        ACLs that guard objects elsewhere too are changed only with `include_shared`. Safe to repeat after a failure.

        Raises:
            Invalid: ACL_SHARED where no ACL could be changed without reaching beyond `name`.
            MdmError: the catalog did not change anything, and so nothing was.
        """
        changed, hidden = self._catalog.modify_subtree_acls(name, changes, include_shared)
        shared = tuple(item.acl.acl_id for item in changed if item.error and item.error.reason == "ACL_SHARED")
        rest = [item for item in changed if item.acl.acl_id not in shared]
        if shared and not rest:
            raise Invalid(
                "ACL_SHARED",
                f"{name}: its access list guards objects elsewhere too; name the directory they share, add --shared,"
                " or give a directory a list of its own (mdm acl set --own)",
            )
        place = self._catalog.place
        outcomes = tuple(
            AclOutcome(place, item.acl.acl_id, _view(item.after) if item.after else None, _at(item.error, place)) for item in rest
        )
        others = [service for service in self._services if service.place != place]
        outcomes += self._everywhere([item.acl for item in rest], lambda service, ids: service.modify(ids, changes), others)
        return AclReport(outcomes, shared, hidden)

    def set_own(self, name: Name, changes: Sequence[acl_pb2.AclChange], *, own: bool, default: bool) -> AclOutcome:
        """Give a directory a list of its own: a copy of its present one (its default one without `own`), yours, with changes applied.

        With `own` it guards the directory itself; with `default`, what is made in it from now on refers to it. In the catalog only:
        what is there already, and its keys and records, stay under their lists.

        Raises:
            Invalid: NOT_A_DIRECTORY. MdmError: it may not be shown, or not be changed.
        """
        [entry] = self._catalog.stat([name])
        if isinstance(entry, MdmError):
            raise entry
        if not entry.default_acl_id:
            raise Invalid("NOT_A_DIRECTORY", f"{name}: only a directory can be given a list of its own")
        acls = next(service for service in self._services if service.place == self._catalog.place)
        [present] = acls.get([entry.acl_id if own else entry.default_acl_id])
        if present.acl is None:
            return present
        new_id = acls.create(present.acl.entries)
        [changed] = acls.modify([new_id], changes)
        if changed.error is not None:
            return changed
        [error] = self._catalog.assign_acls([(name, new_id if own else entry.acl_id, new_id if default else "")])
        return AclOutcome(changed.service, new_id, changed.acl, error)

    def _everywhere(
        self,
        acls: Sequence[SubtreeAcl],
        ask: Callable[[AclClient, Sequence[str]], list[AclOutcome]],
        services: Sequence[AclClient],
    ) -> tuple[AclOutcome, ...]:
        if not acls or not services:
            return ()
        ids = [acl.acl_id for acl in acls]
        guards_files = {acl.acl_id for acl in acls if acl.files}
        with ThreadPoolExecutor(max_workers=len(services), thread_name_prefix="acl") as executor:
            answers = list(executor.map(lambda service: ask(service, ids), services))
        return tuple(
            outcome
            for service, outcomes in zip(services, answers, strict=True)
            for outcome in outcomes
            # An ACL of directories alone need not exist beside keys and metadata.
            if service.place == self._catalog.place or outcome.acl_id in guards_files or not isinstance(outcome.error, NotFound)
        )


def grant(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that adds permissions to a principal's."""
    return _change(GRANT, principal, permissions)


def revoke(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that takes permissions from a principal."""
    return _change(REVOKE, principal, permissions)


def replace(principal: str, permissions: int) -> acl_pb2.AclChange:
    """Return the change that makes permissions all that a principal has."""
    return _change(acl_pb2.AclChange.ACTION_SET, principal, permissions)


def give(owner: str) -> acl_pb2.AclChange:
    """Return the change that makes a principal, a `dn:…`, the owner."""
    return _change(acl_pb2.AclChange.ACTION_SET_OWNER, owner, 0)


def _change(action: int, principal: str, permissions: int) -> acl_pb2.AclChange:
    entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
    return acl_pb2.AclChange(action=action, entry=entry)  # type: ignore[arg-type]


def _view(acl: acl_pb2.Acl) -> AclView:
    return AclView(acl.id, acl.owner, {entry.principal: entry.permissions for entry in acl.entries}, acl.rev)


def _at(error: MdmError | None, place: str) -> MdmError | None:
    return error.at(place) if error else None
