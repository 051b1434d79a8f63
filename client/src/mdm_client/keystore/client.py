"""All keystores as one: keys are created on every keystore and read from any k of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from uuid import UUID

from mdm.acl.v1 import acl_pb2
from mdm.keystore.v1 import keystore_pb2
from mdm_wire.batch import MAX_KEYS, in_batches
from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.retry import Backoff, Retries

from mdm_client.keystore.calls import KeystoreServer, Preference, Reply, call_all, item_answers, item_errors
from mdm_client.keystore.creation import Creation
from mdm_client.keystore.reading import KEY_SHARES_CHANGING, KeyReading

__all__ = ["KeystoreClient", "KeystoreServer"]

Answer = TypeVar("Answer")
TIMEOUT_SECONDS = 10.0
HEDGE_DELAY_SECONDS = 0.3
#: For so long a reader asks again that met some keystores before they replaced a key's shares, and some after.
_CHANGING_SECONDS = 1.0

KeyErrors = dict[UUID, MdmError | None]


@dataclass(frozen=True)
class KeyResult:
    """The result of an operation on one key: by keystore the error, None where it was done."""

    guid: UUID
    parts: Mapping[str, MdmError | None]

    @property
    def error(self) -> MdmError | None:
        """The error of an operation that is not done everywhere; a keystore without the key counts as done if another one had it."""
        errors = [error for error in self.parts.values() if error is not None]
        lasting = next((error for error in errors if not isinstance(error, NotFound)), None)
        if lasting is not None or len(errors) < len(self.parts):
            return lasting
        return errors[0]

    @property
    def begun(self) -> bool:
        """Whether it is done on any keystore."""
        return None in self.parts.values()


class KeySource(Protocol):
    """A source of keys: a KeystoreClient, or a substitute."""

    def get_keys(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | MdmError]:
        """Return each file's key, or the error."""


class KeystoreClient:
    """Creates, reads and destroys file keys; splits and combines them here, so that no keystore sees one.

    Thread-safe. It remembers which keystores are fast and which return wrong shares: use one object for many calls.
    Batches may have any length.
    """

    def __init__(
        self, servers: Sequence[KeystoreServer], threshold: int, timeout: float = TIMEOUT_SECONDS, hedge_delay: float = HEDGE_DELAY_SECONDS
    ) -> None:
        """Use these keystores, whose indexes are 1 to n, and the threshold k; times are in seconds.

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

        Return None for each key that all keystores hold confirmed, also if it existed already, else the error. All
        keystores must be up. Safe to repeat after any failure or crash: an interrupted creation is completed or made anew.
        """
        errors: KeyErrors = {}
        for batch in in_batches(dict.fromkeys(guids), MAX_KEYS):
            creation = Creation(self._servers, self._threshold, acl_id, self._timeout)
            errors.update(creation.run(batch))
        return errors

    def get_keys(self, guids: Sequence[UUID]) -> dict[UUID, bytes | MdmError]:
        """Return each file's 32-byte key, proven against its commitments, or the error.

        Any k keystores suffice: a keystore that is down, hangs (at the cost of the hedging delay) or gives wrong shares is left
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
        """Return the attributes of keys, nothing secret, as stored by each keystore, by keystore name and GUID."""
        return self._answers(
            guids,
            lambda server: server.keys.GetKeyAttributes,
            lambda batch: keystore_pb2.GetKeyAttributesRequest(guids=map(str, batch)),
            lambda result: result.attributes,
        )

    def delete_keys(self, guids: Sequence[UUID]) -> KeyErrors:
        """Destroy keys on every keystore; return None for each key that no keystore has any more, NotFound if none had it.

        Safe to repeat after a failure.
        """
        found = self.delete_keys_by_server(guids)
        return {guid: KeyResult(guid, {name: errors[guid] for name, errors in found.items()}).error for guid in dict.fromkeys(guids)}

    def delete_keys_by_server(self, guids: Sequence[UUID]) -> dict[str, KeyErrors]:
        """Destroy keys on every keystore; return each error by keystore name and GUID."""
        return self._errors(
            guids, lambda server: server.keys.DeleteKeys, lambda batch: keystore_pb2.DeleteKeysRequest(guids=map(str, batch))
        )

    def assign_acls(self, guids: Sequence[UUID], acl_id: UUID) -> dict[str, KeyErrors]:
        """Point keys at another ACL on every keystore; return each error by keystore name and GUID."""

        def request(batch: Sequence[UUID]) -> keystore_pb2.AssignAclsRequest:
            pairs = [keystore_pb2.AclAssignment(guid=str(guid), acl_id=str(acl_id)) for guid in batch]
            return keystore_pb2.AssignAclsRequest(assignments=pairs)

        return self._errors(guids, lambda server: server.keys.AssignAcls, request)

    def create_acls(self, acls: Sequence[acl_pb2.Acl]) -> dict[str, KeyErrors]:
        """Create ACLs on every keystore; return each error by keystore name and ACL id. Safe to repeat."""
        by_id = {UUID(acl.id): acl for acl in acls}
        return self._errors(
            list(by_id),
            lambda server: server.acls.CreateAcls,
            lambda batch: acl_pb2.CreateAclsRequest(acls=[by_id[acl_id] for acl_id in batch]),
        )

    def _read(self, guids: Sequence[UUID]) -> Mapping[UUID, bytes | MdmError]:
        return KeyReading(guids, self._threshold, self._preference, self._timeout, self._hedge_delay).run()

    def _errors(
        self, ids: Sequence[UUID], method: Callable[[KeystoreServer], Callable[..., Any]], request: Callable[[Sequence[UUID]], Any]
    ) -> dict[str, KeyErrors]:
        """Call every keystore with all ids, in batches; return the errors by keystore name and id."""
        errors: dict[str, KeyErrors] = {server.name: {} for server in self._servers}
        for batch in in_batches(dict.fromkeys(ids), MAX_KEYS):
            for server, reply in self._call_all(method, request(batch)).items():
                errors[server.name].update(item_errors(reply, batch))
        return errors

    def _answers(
        self,
        ids: Sequence[UUID],
        method: Callable[[KeystoreServer], Callable[..., Any]],
        request: Callable[[Sequence[UUID]], Any],
        value: Callable[[Any], Answer],
    ) -> dict[str, dict[UUID, Answer | MdmError]]:
        """Call every keystore with all ids, in batches; return the values or errors by keystore name and id."""
        found: dict[str, dict[UUID, Answer | MdmError]] = {server.name: {} for server in self._servers}
        for batch in in_batches(dict.fromkeys(ids), MAX_KEYS):
            for server, reply in self._call_all(method, request(batch)).items():
                found[server.name].update(item_answers(reply, batch, value))
        return found

    def _call_all(self, method: Callable[[KeystoreServer], Callable[..., Any]], request: Any) -> Mapping[KeystoreServer, Reply]:
        return call_all(self._servers, method, lambda _: request, self._timeout)
