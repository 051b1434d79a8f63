"""All keystores as one: keys are created on every one of them and read from any k."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_wire.batch import MAX_KEYS, in_batches
from mdm_wire.errors import Code, Invalid, MdmError
from mdm_wire.retry import Backoff, Retries

from mdm_client.keystore.calls import KeystoreServer, Reply, call_all, item_answers, item_errors
from mdm_client.keystore.creation import Creation
from mdm_client.keystore.reading import KEY_SHARES_CHANGING, Preference, Reading

__all__ = ["KeystoreClient", "KeystoreServer"]

Answer = TypeVar("Answer")
TIMEOUT_SECONDS = 10.0
HEDGE_DELAY_SECONDS = 0.3
#: A reader that met keystores before and after they replaced a key's shares asks again.
_CHANGING_SECONDS = 1.0

KeyErrors = dict[UUID, MdmError | None]


class KeySource(Protocol):
    """What gives keys."""

    def get_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | MdmError]:
        """Return each file's key or why it is not given."""


class KeystoreClient:
    """Creates, reads and destroys file keys; splits and combines them here, so that no keystore sees one.

    May be shared by threads; it remembers which keystores are fast and which misbehave, so keep one for long. Batches may
    have any length.
    """

    def __init__(
        self,
        servers: Sequence[KeystoreServer],
        threshold: int,
        timeout: float = TIMEOUT_SECONDS,
        hedge_delay: float = HEDGE_DELAY_SECONDS,
    ) -> None:
        """Take all keystores, whose indexes are 1 to n, and k; times are in seconds.

        Raises:
            Invalid: KEYSTORES_WRONG.
        """
        indexes = sorted(server.index for server in servers)
        if indexes != list(range(1, len(servers) + 1)) or not 2 <= threshold <= len(servers):
            message = "keystores: the indexes must be 1 to n, each once, and 2 ≤ threshold ≤ n"
            raise Invalid("KEYSTORES_WRONG", message)
        self._servers = tuple(servers)
        self._threshold = threshold
        self._timeout = timeout
        self._hedge_delay = hedge_delay
        self._preference = Preference(self._servers)

    def create_keys(self, guids: Sequence[UUID], acl_id: UUID) -> KeyErrors:
        """Create a key for each GUID, guarded by an ACL that exists on every keystore and on which the caller holds `w`.

        Returns None for each key that all keystores hold confirmed, also when it existed already; else why not. All
        keystores must be up. Safe to repeat after any failure or crash: what was interrupted is completed or made anew.
        """
        errors: KeyErrors = {}
        for batch in in_batches(dict.fromkeys(guids), MAX_KEYS):
            creation = Creation(self._servers, self._threshold, acl_id, self._timeout)
            errors.update(creation.run(batch))
        return errors

    def get_keys(self, guids: Sequence[UUID]) -> dict[UUID, bytes | MdmError]:
        """Return each file's 32-byte key, proven against its commitments, or why it is not given.

        Any k keystores suffice: one that is down, hung (at the cost of the hedging delay) or gives wrong shares is left
        out and named in a warning.
        """
        results: dict[UUID, bytes | MdmError] = {}
        for batch in in_batches(dict.fromkeys(guids), MAX_KEYS):
            results.update(self._read(batch))
            retries = Retries(_CHANGING_SECONDS, Backoff(0.05, 0.5))
            while changing := [guid for guid in batch if getattr(results[guid], "reason", "") == KEY_SHARES_CHANGING]:
                if not retries.pause():
                    break
                results.update(self._read(changing))
        return results

    def key_attributes(self, guids: Sequence[UUID]) -> dict[str, dict[UUID, keystore_pb2.KeyAttributes | MdmError]]:
        """Return what is not secret about keys as each keystore holds them, by keystore name and GUID."""
        return self._answers(
            guids,
            lambda server: server.keys.GetKeyAttributes,
            lambda batch: keystore_pb2.GetKeyAttributesRequest(guids=map(str, batch)),
            lambda result: result.attributes,
        )

    def delete_keys(self, guids: Sequence[UUID]) -> KeyErrors:
        """Destroy keys on every keystore; None where no keystore has it any more, NotFound where none had it.

        Safe to repeat after a failure.
        """
        answers = self.delete_keys_by_server(guids).values()
        return {guid: _deletion([of_server[guid] for of_server in answers]) for guid in dict.fromkeys(guids)}

    def delete_keys_by_server(self, guids: Sequence[UUID]) -> dict[str, KeyErrors]:
        """Destroy keys on every keystore; return what went wrong with each, by keystore name and GUID."""
        return self._errors(
            guids, lambda server: server.keys.DeleteKeys, lambda batch: keystore_pb2.DeleteKeysRequest(guids=map(str, batch))
        )

    def assign_acls(self, guids: Sequence[UUID], acl_id: UUID) -> dict[str, KeyErrors]:
        """Point keys at another ACL on every keystore; return what went wrong with each, by keystore name and GUID."""

        def request(batch: Sequence[UUID]) -> keystore_pb2.AssignAclsRequest:
            pairs = [keystore_pb2.AclAssignment(guid=str(guid), acl_id=str(acl_id)) for guid in batch]
            return keystore_pb2.AssignAclsRequest(assignments=pairs)

        return self._errors(guids, lambda server: server.keys.AssignAcls, request)

    def create_acls(self, acls: Sequence[acl_pb2.Acl]) -> dict[str, KeyErrors]:
        """Create ACLs on every keystore; return what went wrong with each, by keystore name and ACL id. Safe to repeat."""
        by_id = {UUID(acl.id): acl for acl in acls}
        return self._errors(
            list(by_id),
            lambda server: server.acls.CreateAcls,
            lambda batch: acl_pb2.CreateAclsRequest(acls=[by_id[acl_id] for acl_id in batch]),
        )

    def modify_acls(self, acl_ids: Sequence[UUID], changes: Sequence[acl_pb2.AclChange], *, shared: bool = False) -> dict[str, KeyErrors]:
        """Apply the same changes to ACLs on every keystore; return what went wrong with each, by keystore name and ACL id.

        An ACL that guards more than one key is left alone with ACL_SHARED unless `shared`.
        """
        return self._errors(
            acl_ids,
            lambda server: server.acls.ModifyAcls,
            lambda batch: acl_pb2.ModifyAclsRequest(ids=map(str, batch), changes=changes, shared=shared),
            lambda response: [result.status for result in response.results],
        )

    def get_acls(self, acl_ids: Sequence[UUID]) -> dict[str, dict[UUID, acl_pb2.Acl | MdmError]]:
        """Return ACLs as each keystore holds them, by keystore name and ACL id."""
        return self._answers(
            acl_ids,
            lambda server: server.acls.GetAcls,
            lambda batch: acl_pb2.GetAclsRequest(ids=map(str, batch)),
            lambda result: result.acl,
        )

    def check_servers(self) -> dict[str, MdmError | None]:
        """Ask every keystore whether it holds the share index that the configuration says; None where it does."""
        replies = self._call_all(lambda server: server.keys.GetServerInfo, keystore_pb2.GetServerInfoRequest())
        return {server.name: _index_error(reply) for server, reply in replies.items()}

    def _read(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | MdmError]:
        return Reading(guids, self._threshold, self._preference, self._timeout, self._hedge_delay).run()

    def _errors(
        self,
        ids: Sequence[UUID],
        method: Callable[[KeystoreServer], Callable[..., Any]],
        request: Callable[[Sequence[UUID]], Any],
        statuses: Callable[[Any], Any] = lambda response: response.statuses,
    ) -> dict[str, KeyErrors]:
        """Ask every keystore about each id, in batches; return the errors by keystore name and id."""
        errors: dict[str, KeyErrors] = {server.name: {} for server in self._servers}
        for batch in in_batches(dict.fromkeys(ids), MAX_KEYS):
            for server, reply in self._call_all(method, request(batch)).items():
                errors[server.name].update(item_errors(reply, batch, statuses))
        return errors

    def _answers(
        self,
        ids: Sequence[UUID],
        method: Callable[[KeystoreServer], Callable[..., Any]],
        request: Callable[[Sequence[UUID]], Any],
        value: Callable[[Any], Answer],
    ) -> dict[str, dict[UUID, Answer | MdmError]]:
        """Ask every keystore about each id, in batches; return the values or errors by keystore name and id."""
        found: dict[str, dict[UUID, Answer | MdmError]] = {server.name: {} for server in self._servers}
        for batch in in_batches(dict.fromkeys(ids), MAX_KEYS):
            for server, reply in self._call_all(method, request(batch)).items():
                found[server.name].update(item_answers(reply, batch, lambda response: response.results, value))
        return found

    def _call_all(self, method: Callable[[KeystoreServer], Callable[..., Any]], request: Any) -> Mapping[KeystoreServer, Reply]:
        return call_all(self._servers, method, lambda _: request, self._timeout)


def _deletion(errors: Sequence[MdmError | None]) -> MdmError | None:
    """The error of a deletion everywhere: absent here and deleted there is deleted."""
    failed = next((error for error in errors if error and error.code is not Code.NOT_FOUND), None)
    if failed is not None or None in errors:
        return failed
    return errors[0]


def _index_error(reply: Reply) -> MdmError | None:
    if reply.error is not None or reply.response.share_index == reply.server.index:
        return reply.error
    held, expected = reply.response.share_index, reply.server.index
    message = f"{reply.server.place}: holds share {held}, but the configuration says {expected}; correct `index`"
    return Invalid("KEYSTORE_INDEX_WRONG", message)
