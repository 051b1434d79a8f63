"""Keys as people handle them: register, look, share, destroy; each answered keystore by keystore."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from typing import Any, TypeVar
from uuid import UUID, uuid5

from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_wire.errors import MdmError, NotFound
from mdm_wire.retry import RetryPolicy

from mdm_client.acl import AclAnswer, AclClient, give_away, view_from_proto
from mdm_client.keystore.calls import KeystoreServer, call_all, item_answers
from mdm_client.keystore.client import TIMEOUT_SECONDS, KeystoreClient
from mdm_client.service import Service, raise_first

Part = TypeVar("Part")
POLICY = RetryPolicy(TIMEOUT_SECONDS, retry_seconds=3.0)

PENDING = "pending"
CONFIRMED = "confirmed"

_STATES = {keystore_pb2.KEY_STATE_PENDING: PENDING, keystore_pb2.KEY_STATE_CONFIRMED: CONFIRMED}
_OWN_LIST = UUID("5e0a3c57-5a0f-5d0c-9d2b-3a0f4cf5d1a7")  # a namespace of its own for the ids made from keys


@dataclass(frozen=True, slots=True)
class KeyAttributes:
    """What one keystore says about its share of a key."""

    guid: UUID
    public_key: bytes
    epoch: int
    version: int
    share_index: int
    threshold: int
    total: int
    state: str
    acl_id: str
    created: datetime
    creator: str

    @property
    def common(self) -> tuple[object, ...]:
        """What every keystore must say alike."""
        return (self.public_key, self.epoch, self.version, self.threshold, self.total, self.state, self.acl_id)


@dataclass(frozen=True)
class KeyStatus:
    """One key as every keystore holds it, by the keystore's name."""

    guid: UUID
    parts: Mapping[str, KeyAttributes | MdmError]

    @property
    def known(self) -> dict[str, KeyAttributes]:
        """What the keystores say that have it."""
        return {name: part for name, part in self.parts.items() if isinstance(part, KeyAttributes)}

    @property
    def error(self) -> MdmError | None:
        """Why nothing is known of it; None where any keystore says something."""
        errors = [part for part in self.parts.values() if isinstance(part, MdmError)]
        if len(errors) < len(self.parts):
            return None
        return next((error for error in errors if not isinstance(error, NotFound)), errors[0])

    @property
    def majority(self) -> tuple[object, ...] | None:
        """What most of those keystores say."""
        said = [attributes.common for attributes in self.known.values()]
        return max(said, key=said.count) if said else None

    @property
    def whole(self) -> bool:
        """Whether every keystore says the same."""
        return all(isinstance(part, KeyAttributes) and part.common == self.majority for part in self.parts.values())


@dataclass(frozen=True)
class KeyResult:
    """What one operation on one key did: by keystore, None where it was done."""

    guid: UUID
    parts: Mapping[str, MdmError | None]

    @property
    def error(self) -> MdmError | None:
        """Why it is not done everywhere; a keystore that has no such key has nothing left to do if another one had it."""
        errors = [error for error in self.parts.values() if error is not None]
        lasting = next((error for error in errors if not isinstance(error, NotFound)), None)
        if lasting is not None or len(errors) < len(self.parts):
            return lasting
        return errors[0]

    @property
    def begun(self) -> bool:
        """Whether it is done on any keystore."""
        return None in self.parts.values()


class KeyManager:
    """Keys as their owners and a site's operators handle them. Everything is safe to repeat."""

    def __init__(self, keystores: KeystoreClient, servers: Sequence[KeystoreServer], caller: str) -> None:
        """Take all keystores, together and one by one, and the caller's DN as services write it."""
        self._keystores = keystores
        self._servers = tuple(servers)
        self._caller = caller

    def own_acl_id(self, guids: Sequence[UUID]) -> UUID:
        """Return the id of the ACL made for keys that the caller registers together: the same for the same keys."""
        return uuid5(_OWN_LIST, "\n".join([self._caller, *sorted(str(guid) for guid in guids)]))

    def register(
        self, guids: Sequence[UUID], acl_id: UUID | None = None, entries: Mapping[str, int] | None = None
    ) -> tuple[UUID, dict[UUID, MdmError | None]]:
        """Create keys under an existing ACL, or under one made for them, of the caller, with permission bits by principal.

        Returns the ACL's id, and for each key None where every keystore holds it, also when it did before. All keystores must be up.

        Raises:
            MdmError: the ACL could not be made on every keystore.
        """
        if acl_id is None:
            acl_id = self.own_acl_id(guids)
            wanted = [acl_pb2.AclEntry(principal=who, permissions=bits) for who, bits in (entries or {}).items()]
            made = self._keystores.create_acls([acl_pb2.Acl(id=str(acl_id), entries=wanted)])
            raise_first([errors[acl_id] for errors in made.values()])
        return acl_id, self._keystores.create_keys(guids, acl_id)

    def unregister(self, guids: Sequence[UUID]) -> list[KeyResult]:
        """Destroy keys on every keystore, so that nothing encrypted under them can ever be read again."""
        parts = self._keystores.delete_keys_by_server(guids)
        return [KeyResult(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def assign_acl(self, guids: Sequence[UUID], acl_id: UUID) -> list[KeyResult]:
        """Point keys at another ACL, which must exist on every keystore."""
        parts = self._keystores.assign_acls(guids, acl_id)
        return [KeyResult(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def stat(self, guids: Sequence[UUID]) -> list[KeyStatus]:
        """Return each key as every keystore holds it."""
        found = self._keystores.key_attributes(guids)
        parts = {
            name: {guid: answer if isinstance(answer, MdmError) else _from_proto(answer) for guid, answer in of_server.items()}
            for name, of_server in found.items()
        }
        return [KeyStatus(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def list_keys(self) -> Iterator[KeyStatus]:
        """Yield every key that the caller may list, all of them for an operator, in order of GUID.

        A keystore that cannot be listed has the same error for every key, one that lacks a key NotFound.

        Raises:
            MdmError: on first use of the iterator: no keystore can be listed; or later: one broke off.
        """
        away: dict[str, MdmError] = {}
        listings = []
        for server in self._servers:
            listing = self._list_at(server)
            try:
                listings.append(_begun(server.name, listing))
            except MdmError as error:
                away[server.name] = error
        if not listings:
            raise next(iter(away.values()))
        absent = NotFound("KEY_NOT_FOUND", "no such key, or it is not for you to list")
        merged = heapq.merge(*listings, key=lambda item: item[1].guid)
        for guid, group in groupby(merged, key=lambda item: item[1].guid):
            held = dict(group)
            yield KeyStatus(guid, {server.name: held.get(server.name) or away.get(server.name, absent) for server in self._servers})

    def acls(self, guid: UUID) -> dict[str, AclAnswer]:
        """Return the ACL of a key as each keystore holds it, by the keystore's name."""
        return self._on_acls(guid, lambda server: server.acls.GetAcls, lambda acl_id: acl_pb2.GetAclsRequest(ids=[acl_id]))

    def change_acl(self, guid: UUID, changes: Sequence[acl_pb2.AclChange], *, shared: bool = False) -> dict[str, AclAnswer]:
        """Apply changes to the ACL of a key on every keystore; return it as changed, by the keystore's name.

        One that guards other keys too is left alone with ACL_SHARED unless `shared`.
        """
        scope = acl_pb2.AclScope(keys=[str(guid)])

        def request(acl_id: str) -> acl_pb2.ModifyAclsRequest:
            return acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=changes, shared=shared, scope=scope)

        return self._on_acls(guid, lambda server: server.acls.ModifyAcls, request)

    def change_owner(self, guid: UUID, owner: str, *, shared: bool = False) -> KeyResult:
        """Give the ACL of a key, the caller's own, to another one (`dn:…`) on every keystore; the caller keeps `p`, `d` and `g`."""
        answers = self.change_acl(guid, give_away(owner, self._caller), shared=shared)
        return KeyResult(guid, {name: answer.error for name, answer in answers.items()})

    def give_own_acl(self, guid: UUID, acl_id: UUID) -> dict[str, MdmError | None]:
        """Put a key under a new list of its own, of the caller's, a copy of the present one, on every keystore; by keystore name."""
        (status,) = self.stat([guid])
        errors: dict[str, MdmError | None] = {}
        for server in self._servers:
            part = status.parts[server.name]
            if isinstance(part, MdmError):
                errors[server.name] = part
                continue
            acls = AclClient(Service(server.place, server.channel, POLICY))
            try:
                acls.copy(part.acl_id, str(acl_id), self._caller)
            except MdmError as error:
                errors[server.name] = error
        assigned = self._keystores.assign_acls([guid], acl_id)
        return {server.name: errors.get(server.name) or assigned[server.name][guid] for server in self._servers}

    def _on_acls(
        self, guid: UUID, method: Callable[[KeystoreServer], Callable[..., Any]], request: Callable[[str], Any]
    ) -> dict[str, AclAnswer]:
        """Call the ACL service of each keystore for the ACL that this keystore says guards the key."""
        (status,) = self.stat([guid])
        asked = [server for server in self._servers if server.name in status.known]
        replies = call_all(asked, method, lambda server: request(status.known[server.name].acl_id), TIMEOUT_SECONDS)
        answers: dict[str, AclAnswer] = {}
        for server in self._servers:
            part = status.parts[server.name]
            if isinstance(part, MdmError):
                answers[server.name] = AclAnswer(server.place, "", error=part)
                continue
            answer = item_answers(replies[server], [guid], lambda response: response.results, lambda result: view_from_proto(result.acl))[
                guid
            ]
            failed = isinstance(answer, MdmError)
            answers[server.name] = AclAnswer(server.place, part.acl_id, None if failed else answer, answer if failed else None)  # type: ignore[arg-type]
        return answers

    def _by_key(self, guids: Sequence[UUID], parts: Mapping[str, Mapping[UUID, Part]]) -> dict[UUID, dict[str, Part]]:
        """Turn answers by keystore and key into answers by key and keystore."""
        return {guid: {server.name: parts[server.name][guid] for server in self._servers} for guid in guids}

    def _list_at(self, server: KeystoreServer) -> Iterator[KeyAttributes]:
        service = Service(server.place, server.channel, POLICY)
        for page in service.pages(server.keys.ListKeys, lambda token: keystore_pb2.ListKeysRequest(page_token=token)):
            yield from map(_from_proto, page.keys)


def _begun(name: str, listing: Iterator[KeyAttributes]) -> Iterator[tuple[str, KeyAttributes]]:
    """Name a listing's keystore, after asking for the first page."""
    first = list(islice(listing, 1))
    return ((name, attributes) for attributes in chain(first, listing))


def _from_proto(message: keystore_pb2.KeyAttributes) -> KeyAttributes:
    return KeyAttributes(
        guid=UUID(message.guid),
        public_key=message.public_key,
        epoch=message.epoch,
        version=message.share_version,
        share_index=message.x,
        threshold=message.threshold,
        total=message.total,
        state=_STATES.get(message.state, "unknown"),
        acl_id=message.acl_id,
        created=message.create_time.ToDatetime(tzinfo=UTC),
        creator=message.creator,
    )
