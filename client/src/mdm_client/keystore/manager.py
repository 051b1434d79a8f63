"""Operations on keys for their owners: registering, showing, sharing, destroying, with an answer of each keystore."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from typing import TypeVar
from uuid import UUID, uuid5

from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_wire.errors import MdmError, NotFound
from mdm_wire.retry import RetryPolicy

from mdm_client.acl import AclAnswer, AclClient, give_away
from mdm_client.keystore.calls import KeystoreServer
from mdm_client.keystore.client import TIMEOUT_SECONDS, KeyResult, KeystoreClient
from mdm_client.service import Service, raise_first

Part = TypeVar("Part")
POLICY = RetryPolicy(TIMEOUT_SECONDS, retry_seconds=3.0)

PENDING = "pending"
CONFIRMED = "confirmed"

_STATES = {keystore_pb2.KEY_STATE_PENDING: PENDING, keystore_pb2.KEY_STATE_CONFIRMED: CONFIRMED}
_OWN_LIST = UUID("5e0a3c57-5a0f-5d0c-9d2b-3a0f4cf5d1a7")  # the namespace of ids made from keys


@dataclass(frozen=True, slots=True)
class KeyAttributes:
    """The attributes of a key on one keystore."""

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
        """The attributes that must be the same on every keystore."""
        return (self.public_key, self.epoch, self.version, self.threshold, self.total, self.state, self.acl_id)


@dataclass(frozen=True)
class KeyStatus:
    """The attributes of one key on every keystore, by the keystore's name."""

    guid: UUID
    parts: Mapping[str, KeyAttributes | MdmError]

    @property
    def known(self) -> dict[str, KeyAttributes]:
        """The attributes on those keystores that have it."""
        return {name: part for name, part in self.parts.items() if isinstance(part, KeyAttributes)}

    @property
    def error(self) -> MdmError | None:
        """The error where no keystore knows it, else None."""
        errors = [part for part in self.parts.values() if isinstance(part, MdmError)]
        if len(errors) < len(self.parts):
            return None
        return next((error for error in errors if not isinstance(error, NotFound)), errors[0])

    @property
    def majority(self) -> tuple[object, ...] | None:
        """The attributes on which most keystores agree."""
        said = [attributes.common for attributes in self.known.values()]
        return max(said, key=said.count, default=None)

    @property
    def whole(self) -> bool:
        """Whether all keystores agree."""
        return all(isinstance(part, KeyAttributes) and part.common == self.majority for part in self.parts.values())


class KeyManager:
    """Operations on keys for their owners and for operators of keystores. All are safe to repeat."""

    def __init__(self, keystores: KeystoreClient, servers: Sequence[KeystoreServer], caller: str) -> None:
        """Use all keystores, together and one by one; `caller` is the caller's DN as services write it."""
        self._keystores = keystores
        self._servers = tuple(servers)
        self._caller = caller

    def own_acl_id(self, guids: Sequence[UUID]) -> UUID:
        """Return the id of the ACL for keys that the caller registers together: the same id for the same keys."""
        return uuid5(_OWN_LIST, "\n".join([self._caller, *sorted(str(guid) for guid in guids)]))

    def register(
        self, guids: Sequence[UUID], acl_id: UUID | None = None, entries: Mapping[str, int] | None = None
    ) -> tuple[UUID, dict[UUID, MdmError | None]]:
        """Create keys under an existing ACL, or under a new one of the caller with permission bits by principal.

        Return the ACL's id, and each key's error, None where every keystore holds it, also if it did before. All keystores must be up.

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
        """Destroy keys on every keystore: nothing encrypted under them can ever be read again."""
        parts = self._keystores.delete_keys_by_server(guids)
        return [KeyResult(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def assign_acl(self, guids: Sequence[UUID], acl_id: UUID) -> list[KeyResult]:
        """Point keys at another ACL, which must exist on every keystore."""
        parts = self._keystores.assign_acls(guids, acl_id)
        return [KeyResult(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def stat(self, guids: Sequence[UUID]) -> list[KeyStatus]:
        """Return the attributes of each key on every keystore."""
        found = self._keystores.key_attributes(guids)
        parts = {
            name: {guid: answer if isinstance(answer, MdmError) else _from_proto(answer) for guid, answer in of_server.items()}
            for name, of_server in found.items()
        }
        return [KeyStatus(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def list_keys(self) -> Iterator[KeyStatus]:
        """Yield every key that the caller may list, to an operator all, in order of GUID.

        A keystore that cannot be listed has the same error for every key, one that lacks a key NotFound.

        Raises:
            MdmError: on first use of the iterator, if no keystore can be listed; later, if a listing breaks off.
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
        """Return the ACL of a key on each keystore, by the keystore's name."""
        return self._on_acls(guid, lambda acls, acl_id: acls.get([acl_id]))

    def change_acl(self, guid: UUID, changes: Sequence[acl_pb2.AclChange], *, shared: bool = False) -> dict[str, AclAnswer]:
        """Apply changes to the ACL of a key on every keystore; return it as changed, by the keystore's name.

        One that guards other keys too is not changed (ACL_SHARED) unless `shared`.
        """
        scope = acl_pb2.AclScope(keys=[str(guid)])
        return self._on_acls(guid, lambda acls, acl_id: acls.modify([acl_id], changes, shared=shared, scope=scope))

    def change_owner(self, guid: UUID, owner: str, *, shared: bool = False) -> KeyResult:
        """Give the ACL of a key, which the caller owns, to another owner (`dn:…`) on every keystore; the caller keeps `p`, `d` and `g`."""
        answers = self.change_acl(guid, give_away(owner, self._caller), shared=shared)
        return KeyResult(guid, {name: answer.error for name, answer in answers.items()})

    def give_own_acl(self, guid: UUID, acl_id: UUID) -> dict[str, MdmError | None]:
        """Put a key under a new ACL of the caller, a copy of the present one, on every keystore; return errors by keystore name."""
        (status,) = self.stat([guid])
        errors: dict[str, MdmError | None] = {}
        for server in self._servers:
            part = status.parts[server.name]
            if isinstance(part, MdmError):
                errors[server.name] = part
                continue
            try:
                _acls_at(server).copy(part.acl_id, str(acl_id), self._caller)
            except MdmError as error:
                errors[server.name] = error
        assigned = self._keystores.assign_acls([guid], acl_id)
        return {server.name: errors.get(server.name) or assigned[server.name][guid] for server in self._servers}

    def _on_acls(self, guid: UUID, ask: Callable[[AclClient, str], list[AclAnswer]]) -> dict[str, AclAnswer]:
        """Ask each keystore about the ACL that guards the key there."""
        (status,) = self.stat([guid])

        def answer(server: KeystoreServer) -> AclAnswer:
            part = status.parts[server.name]
            if isinstance(part, MdmError):
                return AclAnswer(server.place, "", error=part)
            (found,) = ask(_acls_at(server), part.acl_id)
            return found

        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="acl") as pool:
            return dict(zip([server.name for server in self._servers], pool.map(answer, self._servers), strict=True))

    def _by_key(self, guids: Sequence[UUID], parts: Mapping[str, Mapping[UUID, Part]]) -> dict[UUID, dict[str, Part]]:
        """Turn answers by keystore and key into answers by key and keystore."""
        return {guid: {server.name: parts[server.name][guid] for server in self._servers} for guid in guids}

    def _list_at(self, server: KeystoreServer) -> Iterator[KeyAttributes]:
        service = Service(server.place, server.channel, POLICY)
        for page in service.pages(server.keys.ListKeys, lambda token: keystore_pb2.ListKeysRequest(page_token=token)):
            yield from map(_from_proto, page.keys)


def _acls_at(server: KeystoreServer) -> AclClient:
    return AclClient(Service(server.place, server.channel, POLICY))


def _begun(name: str, listing: Iterator[KeyAttributes]) -> Iterator[tuple[str, KeyAttributes]]:
    """Ask for the first page of a keystore's listing; add the keystore's name to each key."""
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
