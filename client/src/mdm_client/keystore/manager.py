"""What people do with keys: register, look, share, destroy; each answered keystore by keystore."""

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

from mdm_client.calls import Patience, Service, in_batches
from mdm_client.grants import AclOutcome, AclView
from mdm_client.keystore.calls import KeystoreServer, Reply, everywhere, item_answers, item_errors
from mdm_client.keystore.client import MAX_BATCH, TIMEOUT_SECONDS, KeystoreClient

Part = TypeVar("Part")
#: How long a listing waits for a keystore that is away.
RETRY_SECONDS = 3.0

SET = acl_pb2.AclChange.ACTION_SET
SET_OWNER = acl_pb2.AclChange.ACTION_SET_OWNER
PENDING = "pending"
CONFIRMED = "confirmed"

_STATES = {keystore_pb2.KEY_STATE_PENDING: PENDING, keystore_pb2.KEY_STATE_CONFIRMED: CONFIRMED}
_OWN_LIST = UUID("5e0a3c57-5a0f-5d0c-9d2b-3a0f4cf5d1a7")  # a namespace of its own for the ids made from keys


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What one keystore tells about its share of a key."""

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
    """One key as every keystore tells it, by the keystore's name."""

    guid: UUID
    parts: Mapping[str, KeyFacts | MdmError]

    @property
    def known(self) -> dict[str, KeyFacts]:
        """The keystores that have it and tell of it."""
        return {name: part for name, part in self.parts.items() if isinstance(part, KeyFacts)}

    @property
    def error(self) -> MdmError | None:
        """Why nothing is known of it; None where any keystore tells something."""
        errors = [part for part in self.parts.values() if isinstance(part, MdmError)]
        if len(errors) < len(self.parts):
            return None
        return next((error for error in errors if not isinstance(error, NotFound)), errors[0])

    @property
    def majority(self) -> tuple[object, ...] | None:
        """What most of those keystores say that tell something."""
        said = [facts.common for facts in self.known.values()]
        return max(said, key=said.count) if said else None

    @property
    def whole(self) -> bool:
        """Whether every keystore tells the same."""
        return all(isinstance(part, KeyFacts) and part.common == self.majority for part in self.parts.values())


@dataclass(frozen=True)
class Deed:
    """What became of one operation on one key: by keystore, None where it was done."""

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
            for outcomes in made.values():
                error = outcomes[acl_id]
                if error is not None:
                    raise error
        return acl_id, self._keystores.create_keys(guids, acl_id)

    def unregister(self, guids: Sequence[UUID]) -> list[Deed]:
        """Destroy keys on every keystore, so that nothing encrypted under them can ever be read again."""
        parts: dict[str, dict[UUID, MdmError | None]] = {server.name: {} for server in self._servers}
        for batch in in_batches(list(dict.fromkeys(guids)), MAX_BATCH):
            request = keystore_pb2.DeleteKeysRequest(guids=[str(guid) for guid in batch])
            for server, reply in self._everywhere(lambda server: server.keys.DeleteKeys, request).items():
                parts[server.name].update(item_errors(reply, batch, lambda response: response.statuses))
        return [Deed(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def assign_acl(self, guids: Sequence[UUID], acl_id: UUID) -> list[Deed]:
        """Point keys at another ACL, which must exist on every keystore."""
        parts = self._keystores.assign_acls(guids, acl_id)
        return [Deed(guid, of_key) for guid, of_key in self._by_key(guids, parts).items()]

    def stat(self, guids: Sequence[UUID]) -> list[KeyStatus]:
        """Return each key as every keystore tells it."""
        told = self._keystores.key_attributes(guids)
        parts = {
            name: {guid: answer if isinstance(answer, MdmError) else _facts(answer) for guid, answer in of_server.items()}
            for name, of_server in told.items()
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

    def acls(self, guid: UUID) -> dict[str, AclOutcome]:
        """Return the ACL of a key as each keystore holds it, by the keystore's name."""
        return self._on_acls(guid, lambda server: server.acls.GetAcls, lambda acl_id: acl_pb2.GetAclsRequest(ids=[acl_id]))

    def change_acl(self, guid: UUID, action: int, principal: str, permissions: int) -> dict[str, AclOutcome]:
        """Grant, revoke or SET permissions in the ACL of a key on every keystore; return it as changed, by the keystore's name."""
        entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
        change = acl_pb2.AclChange(action=action, entry=entry)  # type: ignore[arg-type]
        return self._on_acls(
            guid, lambda server: server.acls.ModifyAcls, lambda acl_id: acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[change])
        )

    def change_owner(self, guid: UUID, owner: str) -> Deed:
        """Give the ACL of a key, the caller's own, to another one (`dn:…`) on every keystore.

        Where it was given away before, the caller does not find it any more, unless its entries show it.
        """
        outcomes = self.change_acl(guid, SET_OWNER, owner, 0)
        return Deed(guid, {name: outcome.error for name, outcome in outcomes.items()})

    def _on_acls(
        self, guid: UUID, method: Callable[[KeystoreServer], Callable[..., Any]], request: Callable[[str], Any]
    ) -> dict[str, AclOutcome]:
        """Call the ACL service of each keystore for the ACL that this keystore says guards the key."""
        (status,) = self.stat([guid])
        asked = [server for server in self._servers if server.name in status.known]
        replies = everywhere(asked, method, lambda server: request(status.known[server.name].acl_id), TIMEOUT_SECONDS)
        outcomes: dict[str, AclOutcome] = {}
        for server in self._servers:
            part = status.parts[server.name]
            if isinstance(part, MdmError):
                outcomes[server.name] = AclOutcome(server.place, "", error=part)
                continue
            answer = item_answers(replies[server], [guid], lambda response: response.results, lambda result: _view(result.acl))[guid]
            failed = isinstance(answer, MdmError)
            outcomes[server.name] = AclOutcome(server.place, part.acl_id, None if failed else answer, answer if failed else None)  # type: ignore[arg-type]
        return outcomes

    def _everywhere(self, method: Callable[[KeystoreServer], Callable[..., Any]], request: Any) -> Mapping[KeystoreServer, Reply]:
        return everywhere(self._servers, method, lambda _: request, TIMEOUT_SECONDS)

    def _by_key(self, guids: Sequence[UUID], parts: Mapping[str, Mapping[UUID, Part]]) -> dict[UUID, dict[str, Part]]:
        """Turn answers by keystore and key into answers by key and keystore."""
        return {guid: {server.name: parts[server.name][guid] for server in self._servers} for guid in guids}

    def _list_at(self, server: KeystoreServer) -> Iterator[KeyFacts]:
        at = Service(server.place, server.channel, Patience(TIMEOUT_SECONDS, RETRY_SECONDS))
        token = ""
        while True:
            page = at.call(server.keys.ListKeys, keystore_pb2.ListKeysRequest(page_token=token))
            yield from map(_facts, page.keys)
            token = page.next_page_token
            if not token:
                return


def _begun(name: str, listing: Iterator[KeyFacts]) -> Iterator[tuple[str, KeyFacts]]:
    """Name a listing's keystore, after asking for the first page."""
    first = list(islice(listing, 1))
    return ((name, facts) for facts in chain(first, listing))


def _facts(message: keystore_pb2.KeyAttributes) -> KeyFacts:
    return KeyFacts(
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


def _view(acl: acl_pb2.Acl) -> AclView:
    return AclView(acl.id, acl.owner, {entry.principal: entry.permissions for entry in acl.entries}, acl.rev)
