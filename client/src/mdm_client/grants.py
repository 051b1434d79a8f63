"""Access control of a subtree in every service at once: catalog, each keystore, metadata."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc

from mdm_client.calls import Patience, Service, in_batches
from mdm_client.catalog import CatalogClient, SubtreeAcl
from mdm_client.errors import ClientError, Invalid, NotFound, from_status
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
    error: ClientError | None = None


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

    def modify(self, ids: Sequence[str], change: acl_pb2.AclChange) -> list[AclOutcome]:
        """Apply a change to each ACL and return it as changed, in the order asked; safe to repeat."""
        return self._batched(
            ids,
            lambda batch: self.call(self._stub.ModifyAcls, acl_pb2.ModifyAclsRequest(ids=batch, changes=[change])).results,
        )

    def change(self, ids: Sequence[str], action: int, principal: str, permissions: int) -> list[AclOutcome]:
        """Grant (`GRANT`) or revoke (`REVOKE`) permissions in each ACL, as `modify`."""
        entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
        return self.modify(ids, acl_pb2.AclChange(action=action, entry=entry))  # type: ignore[arg-type]

    def create(self, entries: Mapping[str, int]) -> str:
        """Make an ACL of the caller's with these permission bits by principal, and return its id.

        Raises:
            ClientError: what the service answered.
        """
        wanted = [acl_pb2.AclEntry(principal=principal, permissions=bits) for principal, bits in entries.items()]
        acl = acl_pb2.Acl(id=str(uuid4()), entries=wanted)
        (status,) = self.call(self._stub.CreateAcls, acl_pb2.CreateAclsRequest(acls=[acl])).statuses
        if (error := from_status(status)) is not None:
            raise error.at(self.place)
        return acl.id

    def _batched(self, ids: Sequence[str], call: Callable[[list[str]], Any]) -> list[AclOutcome]:
        """Ask in batches; a batch that fails as a whole fails each of its ACLs."""
        outcomes: list[AclOutcome] = []
        for batch in in_batches(list(ids), MAX_BATCH):
            try:
                results = call(batch)
            except ClientError as error:
                outcomes += [AclOutcome(self.place, acl_id, error=error) for acl_id in batch]
            else:
                outcomes += [self._outcome(acl_id, result) for acl_id, result in zip(batch, results, strict=True)]
        return outcomes

    def _outcome(self, acl_id: str, result: acl_pb2.AclResult) -> AclOutcome:
        error = from_status(result.status)
        if error:
            return AclOutcome(self.place, acl_id, error=error.at(self.place))
        acl = result.acl
        entries = {entry.principal: entry.permissions for entry in acl.entries}
        return AclOutcome(self.place, acl_id, AclView(acl.id, acl.owner, entries, acl.rev))


class Grants:
    """Reads and changes who may do what with a subtree, everywhere."""

    def __init__(self, catalog: CatalogClient, services: Sequence[AclClient]) -> None:
        """Take the catalog, and the ACL service of the catalog and of every other service that guards the same objects."""
        self._catalog = catalog
        self._services = services

    def get(self, name: Name) -> AclReport:
        """Return the ACLs at and below `name` as every service holds them."""
        acls, hidden = self._catalog.subtree_acls(name)
        return AclReport(self._everywhere(acls, lambda service, ids: service.get(ids)), hidden=hidden)

    def change(self, name: Name, action: int, principal: str, permissions: int, include_shared: bool = False) -> AclReport:
        """Grant (`GRANT`) or revoke (`REVOKE`) permissions on everything at and below `name`.

        ACLs that guard objects elsewhere too are changed only with `include_shared`. Safe to repeat after a failure.

        Raises:
            Invalid: ACL_SHARED where no ACL could be changed without reaching beyond `name`.
            ClientError: the catalog does not tell the ACLs; nothing was changed.
        """
        found, hidden = self._catalog.subtree_acls(name)
        acls = [acl for acl in found if include_shared or not acl.shared_outside]
        shared = tuple(acl.acl_id for acl in found if acl not in acls)
        if shared and not acls:
            raise Invalid.because(
                "ACL_SHARED",
                f"{name}: its access list guards objects elsewhere too; name the directory they share, or add --shared",
            )
        entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
        change = acl_pb2.AclChange(action=action, entry=entry)  # type: ignore[arg-type]
        outcomes = self._everywhere(acls, lambda service, ids: service.modify(ids, change))
        return AclReport(outcomes, shared, hidden)

    def _everywhere(
        self, acls: Sequence[SubtreeAcl], ask: Callable[[AclClient, Sequence[str]], list[AclOutcome]]
    ) -> tuple[AclOutcome, ...]:
        if not acls:
            return ()
        ids = [acl.acl_id for acl in acls]
        guards_files = {acl.acl_id for acl in acls if acl.files}
        with ThreadPoolExecutor(max_workers=len(self._services), thread_name_prefix="acl") as executor:
            answers = list(executor.map(lambda service: ask(service, ids), self._services))
        return tuple(
            outcome
            for service, outcomes in zip(self._services, answers, strict=True)
            for outcome in outcomes
            # An ACL of directories alone need not exist beside keys and metadata.
            if service.place == self._catalog.place or outcome.acl_id in guards_files or not isinstance(outcome.error, NotFound)
        )
